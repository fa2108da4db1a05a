"""Names and colours of classes, from whatever the user's files offer."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from hsi_runtime.errors import SceneError

# Distinct on screen and in print for the first classes, then varied in lightness.
PALETTE = (
    "#1b9e77", "#d95f02", "#7570b3", "#e7298a", "#66a61e", "#e6ab02", "#a6761d",
    "#1f78b4", "#b2df8a", "#fb9a99", "#cab2d6", "#ffff99", "#33a02c", "#e31a1c",
    "#ff7f00", "#6a3d9a", "#b15928", "#a6cee3", "#8dd3c7", "#bebada", "#fb8072",
    "#80b1d3", "#fdb462", "#b3de69", "#fccde5", "#bc80bd", "#ccebc5", "#ffed6f",
)  # fmt: skip


class ClassInfo(NamedTuple):
    """One class as the user knows it.

    Attributes:
        code: Its value in the user's labels and in the class map.
        name: What it is called.
        color: ``#rrggbb``.
    """

    code: int
    name: str
    color: str


@dataclass(frozen=True)
class ClassTable:
    """Names and colours by label code; either may be missing for a code."""

    names: dict[int, str] = field(default_factory=dict)
    colors: dict[int, str] = field(default_factory=dict)

    @staticmethod
    def from_json(path: str) -> "ClassTable":
        """Read ``{"1": "roof"}``, the same under ``classes``, or a list of objects.

        Objects have ``code``, ``name`` and optionally ``color`` (``#rrggbb``).

        Raises:
            SceneError: The file has another form.
        """
        expected = (
            'expected {"1": "name", ...} or '
            '[{"code": 1, "name": "name", "color": "#rrggbb"}, ...]'
        )
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
            if isinstance(data, dict) and "classes" in data:
                data = data["classes"]
            if isinstance(data, dict):
                data = [{"code": int(k), "name": v} for k, v in data.items()]
            names = {int(c["code"]): c["name"] for c in data}
            colors = {int(c["code"]): str(c["color"]) for c in data if "color" in c}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SceneError(f"Classes {path}: {error}; {expected}.") from error
        bad = [c for c in colors.values() if not re.fullmatch("#[0-9a-fA-F]{6}", c)]
        odd = [n for n in names.values() if not isinstance(n, str)]
        if odd:
            raise SceneError(f"Classes {path}: {odd[0]!r} is no name; {expected}.")
        if bad:
            raise SceneError(f"Classes {path}: colour {bad[0]!r}; {expected}.")
        return ClassTable(names, colors)

    @staticmethod
    def from_raster(
        names: list[str | None], colormap: dict[int, tuple[Any, ...]]
    ) -> "ClassTable":
        """Take category names by position and colours by value."""
        return ClassTable(
            {code: name for code, name in enumerate(names) if name},
            {
                code: "#{:02x}{:02x}{:02x}".format(*c[:3])
                for code, c in colormap.items()
            },
        )

    def updated(self, other: "ClassTable") -> "ClassTable":
        """Return this table with the entries of another put over it."""
        return ClassTable(self.names | other.names, self.colors | other.colors)

    def describe(self, codes: list[int]) -> tuple[list[ClassInfo], list[str]]:
        """Describe the classes that are present, in order of code.

        Returns:
            The classes, and sentences about what had to be made up.
        """
        classes = []
        unnamed = [c for c in codes if c not in self.names]
        for number, code in enumerate(codes):
            name = self.names.get(code, str(code))
            color = self.colors.get(code, PALETTE[number % len(PALETTE)])
            classes.append(ClassInfo(code, name, color.lower()))
        said = []
        if self.names and unnamed:
            said.append(f"Label codes without a name keep their code: {unnamed}.")
        return classes, said
