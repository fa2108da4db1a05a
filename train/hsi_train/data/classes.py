"""Names and colours of classes, from whatever the user's files offer."""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.errors import SceneError
from hsi_runtime.files import local_file, open_binary
from hsi_runtime.model.model_file import ClassEntry

MAX_CODE = 65534  # 65535 is nodata in a uint16 class map
MAX_NAME = 200  # letters
MAX_FILE_BYTES = 16 * 1024 * 1024
EXPECTED = (
    'expected {"1": "name", ...} or '
    '[{"code": 1, "name": "name", "color": "#rrggbb"}, ...]'
)
# What files call code 0 when it is no class, in the form of `_letters`.
UNLABELLED_NAMES = {
    *("", "0", "unclassified", "unlabelled", "unlabeled", "not labelled", "background"),
    *("nodata", "no data", "no_data", "none", "null", "no class", "undefined", "void"),
    *("masked", "masked pixels", "mask", "unknown", "ignore", "ignored"),
}
Codes = NDArray[np.int64]

# The first seven are Okabe and Ito's (Color Universal Design, 2008) without black. Each
# further colour is the one farthest in CIELAB from all before it, white and light grey,
# as seen with normal vision, without green cones or without red cones (Machado et al.,
# IEEE TVCG 15, 2009); distances in the latter two count one and a half times.
PALETTE = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#f0e442",
    "#4b5af0", "#782d1e", "#00f087", "#0f5a5a", "#0f3c96", "#7896ff", "#b4a54b",
    "#96d2a5", "#96693c", "#4bd2e1", "#96f069", "#b40f00", "#4b4b78", "#ff5a78",
    "#87003c", "#872dc3", "#d22dc3", "#d296a5", "#5a961e", "#b40087", "#ffc3ff",
    "#2d785a", "#a587c3", "#4bd2c3", "#a54b78", "#1e78f0", "#a5d23c", "#5a96e1",
    "#a5b469", "#a52d3c", "#5a965a", "#5a5a0f", "#78f0a5", "#ff693c", "#ff005a",
    "#c34b96", "#5ae169", "#4b78d2", "#2dc387", "#69f0c3", "#005aa5", "#ff96ff",
    "#69b4c3", "#c32d2d", "#960f5a", "#2d7896", "#3c5ad2", "#78d287", "#a5c34b",
    "#3c2da5", "#ffa5e1", "#00f0d2", "#f04b4b", "#f069ff", "#f03c78", "#870069",
    "#c3005a",
)  # fmt: skip


def composed(name: str) -> str:
    """Return a class name in one form of Unicode (NFC), without spaces at its ends.

    Programs write the same letters in two forms, and nobody sees which: names are
    compared after this.
    """
    return unicodedata.normalize("NFC", name).strip()


@dataclass(frozen=True)
class ClassTable:
    """Names and colours by label code; either may be missing for a code.

    Names are in the form that `composed` returns.
    """

    names: dict[int, str] = field(default_factory=dict)
    colors: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = {code: composed(name) for code, name in self.names.items()}
        names = {code: name for code, name in names.items() if name}
        object.__setattr__(self, "names", names)

    @staticmethod
    def from_json(path: str) -> "ClassTable":
        """Read ``{"1": "roof"}``, the same under ``classes``, or a list of objects.

        Objects have ``code``, ``name`` and optionally ``color`` (``#rrggbb``).

        Raises:
            SceneError: The file has another form, or a code or a name comes twice.
        """
        try:
            entries = _entries(_read_json(path))
        except (ValueError, RecursionError) as error:
            reason = "nested too deep" if isinstance(error, RecursionError) else error
            raise SceneError(f"Classes {path}: {reason}; {EXPECTED}.") from None
        table = ClassTable()
        for code, name, color in entries:
            if code in table.names:
                raise SceneError(f"Classes {path}: code {code} is given twice.")
            if name in table.names.values():
                raise SceneError(
                    f"Classes {path}: two classes are named {name!r}. Give each class "
                    "a name of its own."
                )
            table.names[code] = name
            if color is not None:
                table.colors[code] = color
        return table

    def updated(self, other: "ClassTable") -> "ClassTable":
        """Return this table with the entries of another put over it."""
        return ClassTable(self.names | other.names, self.colors | other.colors)

    def joined(self, other: "ClassTable", path: str) -> "ClassTable":
        """Return the entries of two files whose codes must mean the same.

        Args:
            other: Entries of the second file.
            path: The second file, for messages.

        Raises:
            SceneError: A code has another name in the second file.
        """
        for code in sorted(self.names.keys() & other.names.keys() - {0}):
            ours, theirs = self.names[code], other.names[code]
            if _letters(ours) != _letters(theirs):
                raise SceneError(
                    f"{path} names code {code} {_short(theirs)}, and other labels "
                    f"name it {_short(ours)}. Give each class one code in all labels; "
                    "or name it with --classes, if it is one class."
                )
        return self.updated(other)

    def without(self, names: Iterable[int]) -> "ClassTable":
        """Return this table without the names of some codes."""
        kept = {c: n for c, n in self.names.items() if c not in {*names}}
        return ClassTable(kept, self.colors)

    def describe(self, codes: list[int]) -> tuple[list[ClassEntry], list[str]]:
        """Describe the classes that are present, in order of code.

        Returns:
            The classes, and messages for the user about their names.

        Raises:
            SceneError: A name cannot be written into files or shown.
        """
        classes = []
        unnamed = [c for c in codes if c not in self.names]
        for number, code in enumerate(codes):
            name = self.names.get(code, str(code))
            color = self.colors.get(code, PALETTE[number % len(PALETTE)])
            classes.append(ClassEntry(code=code, name=name, color=color.lower()))
        messages = []
        zero = self.names.get(0, "")
        if _letters(zero) not in UNLABELLED_NAMES:
            messages.append(
                f"Code 0 means unlabelled, so {zero!r} is no class and its pixels are "
                "not used. If it is a class, give it another code."
            )
        if self.names and unnamed:
            messages.append(f"Label codes without a name keep their code: {unnamed}.")
        alike: dict[str, list[str]] = {}
        for entry in classes:
            _check_name(entry)
            alike.setdefault(_letters(entry.name), []).append(
                f"{entry.name!r} ({entry.code})"
            )
        messages += [
            f"Classes {' and '.join(same)} have the same name, apart from capitals, "
            "spaces or forms of letters, but are kept apart. If they are one class, "
            "give them one code."
            for same in alike.values()
            if len(same) > 1
        ]
        return classes, messages


def _read_json(path: str) -> Any:
    """Read a JSON file without keys that come twice, of which Python keeps the last.

    Raises:
        SceneError: There is no such file, or it is too large.
        ValueError: It is not JSON.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice = [key for key, n in Counter(key for key, _ in pairs).items() if n > 1]
        if twice:
            raise ValueError(f"{twice[0]!r} is given twice")
        return dict(pairs)

    with open_binary(local_file(path)) as file:
        raw = file.read(MAX_FILE_BYTES + 1)
    if len(raw) > MAX_FILE_BYTES:
        raise SceneError(f"Classes {path}: larger than {MAX_FILE_BYTES} bytes.")
    return json.loads(raw.decode("utf-8-sig"), object_pairs_hook=unique)


def _entries(data: Any) -> list[tuple[int, str, str | None]]:
    """Return code, name and colour of each class of a class file.

    Raises:
        ValueError: The data have another form.
    """
    if isinstance(data, dict) and "classes" in data:
        data = data["classes"]
    if isinstance(data, dict):
        data = [{"code": code, "name": name} for code, name in data.items()]
    if not isinstance(data, list):
        raise ValueError("it is no object and no list")
    entries = []
    for item in data:
        if not isinstance(item, dict) or not {"code", "name"} <= item.keys():
            raise ValueError(f"{_short(item)} has no code and name")
        code, name, color = _code(item["code"]), item["name"], item.get("color")
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"{_short(name)} is no name")
        if color is not None and not re.fullmatch("#[0-9a-fA-F]{6}", str(color)):
            raise ValueError(f"colour {_short(color)}")
        entries.append((code, composed(name), color))
    return entries


def _code(value: Any) -> int:
    text = isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,9}\s*", value)
    if not text and (isinstance(value, bool) or not isinstance(value, int)):
        raise ValueError(f"code {_short(value)} is no whole number")
    code = int(value)
    if not 0 <= code <= MAX_CODE:
        raise ValueError(f"code {_short(value)} is not in 0..{MAX_CODE}")
    return code


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _letters(name: str) -> str:
    """Return a name without what people do not tell apart: capitals, spaces, forms."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def _check_name(entry: ClassEntry) -> None:
    """Refuse a name that a terminal, XML or a file cannot hold."""
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in entry.name):
        raise SceneError(
            f"The name of class {entry.code}, {_short(entry.name)}, holds a control "
            "character. Name it otherwise, such as with --classes."
        )
    if len(entry.name) > MAX_NAME:
        raise SceneError(
            f"The name of class {entry.code} has {len(entry.name)} letters; at most "
            f"{MAX_NAME} are possible. Name it otherwise, such as with --classes."
        )
