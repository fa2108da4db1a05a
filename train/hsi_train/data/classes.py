"""Names and colours of classes, from whatever the user's files offer."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.errors import SceneError
from hsi_runtime.model.model_file import ClassEntry

MAX_CODE = 65534  # 65535 is nodata in a uint16 class map
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

    def describe(self, codes: list[int]) -> tuple[list[ClassEntry], list[str]]:
        """Describe the classes that are present, in order of code.

        Returns:
            The classes, and sentences about what had to be made up.
        """
        classes = []
        unnamed = [c for c in codes if c not in self.names]
        for number, code in enumerate(codes):
            name = self.names.get(code, str(code))
            color = self.colors.get(code, PALETTE[number % len(PALETTE)])
            classes.append(ClassEntry(code=code, name=name, color=color.lower()))
        messages = []
        if self.names and unnamed:
            messages.append(f"Label codes without a name keep their code: {unnamed}.")
        return classes, messages
