from pathlib import Path

import pytest
import source

TEXT = '''"""A file.

Its second paragraph.
"""

from typing import Annotated, Literal

Count = Annotated[int, "at least 1"]


class Thing(Base):
    """A thing.

    Attributes:
        size: How large,
            in pixels.
        kind: What it is.
    """

    size: Count | None = None
    kind: Literal["a", "b"]


class Machine:
    """Does things.

    Args:
        path: Where.

    Raises:
        OSError: It is not there.
    """

    def __init__(self, path: str, *, fast: bool = True) -> None:
        self.path = path

    def run(self, *files: str, retries: int = 3, **options: int) -> list[str]:
        """Run it.

        Args:
            *files: On which.
            retries: How often.
            **options: Of `go`.

        Returns:
            What came
            of it.
        """


class Mute:
    """Says nothing of its field."""

    field: int
'''


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.py").write_text(TEXT, encoding="utf-8")
    monkeypatch.setattr(source, "ROOT", tmp_path)


def test_docstring_of_a_file() -> None:
    assert source.about("a.py") == "A file.\n\nIts second paragraph."


def test_fields_have_type_default_and_meaning() -> None:
    lines = source.fields("a.py", "Thing").splitlines()
    assert lines[0] == "A thing."
    optional = "<code>int &#124; None</code>"
    assert lines[-2:] == [
        f"| `size` | {optional} | How large, in pixels. Default: `None`. |",
        "| `kind` | <code>'a' &#124; 'b'</code> | What it is. |",
    ]


def test_field_without_a_word_stops_the_build() -> None:
    with pytest.raises(LookupError, match=r"Mute\.field is not described"):
        source.fields("a.py", "Mute")


def test_name_that_is_not_there_stops_the_build() -> None:
    with pytest.raises(LookupError, match=r"no Machine\.stop"):
        source.call("a.py", "Machine.stop")


def test_a_class_is_called_as_its_constructor() -> None:
    found = source.call("a.py", "Machine")
    assert "Machine(\n    path: str,\n    *,\n    fast: bool = True,\n)\n" in found
    assert "| `path` | Where. |" in found
    assert "| `OSError` | It is not there. |" in found
    assert "self" not in found


def test_a_method_has_its_arguments_and_result() -> None:
    found = source.call("a.py", "Machine.run")
    assert (
        "Machine.run(\n    *files: str,\n    retries: int = 3,\n"
        "    **options: int,\n) -> list[str]" in found
    )
    for row in ("| `files` | On which. |", "| `options` | Of `go`. |"):
        assert row in found
    assert found.endswith("Returns: What came of it.")
