import generate
import pytest


def test_no_generated_part_is_stale() -> None:
    stale = sorted(str(path.relative_to(generate.ROOT)) for path in generate.changed())
    assert not stale, f"{stale} are stale: run python .docs/generate.py and commit"


def test_a_part_is_replaced_and_other_text_kept() -> None:
    marker = "<!-- generated: quoted .ci/run bash -->"
    renewed = generate.renewed(f"a <!-- end -->\n{marker}\nold\n<!-- end -->\nc\n")
    assert renewed.startswith(f"a <!-- end -->\n{marker}")
    assert "make test" in renewed
    assert "old" not in renewed
    assert renewed.endswith("\n\n<!-- end -->\nc\n")
    assert generate.renewed(renewed) == renewed


def test_an_unknown_part_is_an_error() -> None:
    with pytest.raises(KeyError):
        generate.renewed("<!-- generated: fieldz a.py -->\n<!-- end -->")


def test_every_part_is_closed() -> None:
    for path in generate.files():
        text = path.read_text(encoding="utf-8")
        begun = text.count("<!-- generated: ")
        assert len(generate.PART.findall(text)) == begun, path.name
        assert text.count("<!-- end -->") == begun, path.name


def test_every_method_has_a_section() -> None:
    from hsi_train.methods import names

    described = generate.methods()
    for name in names():
        assert f"## {name}\n" in described
