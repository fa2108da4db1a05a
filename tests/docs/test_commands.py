import commands
import pytest

from hsi_runtime import errors


@pytest.mark.parametrize("name", list(commands.MODULES))
def test_every_option_of_a_command_is_in_its_table(name: str) -> None:
    found = commands.command(name)
    options = [
        option
        for parameter in commands.find(name).params
        for option in parameter.opts
        if option.startswith("--")
    ]
    assert len(options) >= 2
    for option in [*options, "--help"]:
        assert f"{option}" in found
    assert ("python -m" in found) == name.startswith("hsi_")


def test_stars_and_underscores_of_help_texts_are_kept() -> None:
    assert r"\*\_confidence.tif" in commands.command("hsi-run")


def test_every_error_is_listed() -> None:
    found = commands.errors()
    kinds = [e for e in vars(errors).values() if isinstance(e, type)]
    named = [e for e in kinds if issubclass(e, errors.HsiError)]
    assert len(named) == len(found.splitlines()) - 2 + 1  # the base has no row
    assert "| `OutputError` | `HsiError` | 5 |" in found
