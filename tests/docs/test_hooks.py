import hooks
import pytest


def test_a_directive_is_replaced_and_other_text_kept() -> None:
    text = "a {{ b }}\n{{ about runtime/hsi_runtime/output/qgis_style.py }}\nc\n"
    found = hooks.on_page_markdown(text)
    assert found.startswith("a {{ b }}\nWrites styles in QGIS's format")
    assert found.endswith("\nc\n")


def test_an_unknown_directive_stops_the_build() -> None:
    with pytest.raises(KeyError):
        hooks.on_page_markdown("{{ abuot a.py }}")


def test_every_method_has_a_section() -> None:
    from hsi_train.methods import names

    found = hooks.methods()
    for name in names():
        assert f"{{ #{name} }}" in found
