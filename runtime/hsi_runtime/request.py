"""What the user asks of a scene."""

from dataclasses import dataclass
from pathlib import Path

from hsi_runtime.errors import ModelFileError
from hsi_runtime.model.model_file import ModelDocument
from hsi_runtime.walk.regions import Bounds
from hsi_runtime.walk.windows import Window


@dataclass(frozen=True)
class Request:
    """What the user asked of one scene.

    Attributes:
        scene: Input.
        output: Class map; further files are named after it.
        window: Part to classify, in pixels.
        bounds: Part to classify: west, south, east, north in the scene's CRS.
        tile: Side of the squares that are classified at once; None for the default.
        max_memory_bytes: Budget of the whole process, or None.
        reject_below: Smallest probability of a class; None for the model's suggestion.
        confidence: Also write the best probability.
        probabilities: Also write all probabilities.
        abundances: Also write the abundances of a model that unmixes.
        preview: Also write a PNG.
        stac: Also write a STAC item.
        vector: Also write polygons to this GeoPackage, ``.gpkg``.
        min_area_m2: Smallest polygon to keep; in pixels where the scene's CRS is
            geographic or missing.
        compress: Compression of the GeoTIFFs.
        overwrite: Replace what is there.
        resume: Go on where an interrupted run stopped.
    """

    scene: Path
    output: Path
    window: Window | None = None
    bounds: Bounds | None = None
    tile: int | None = None
    max_memory_bytes: int | None = None
    reject_below: float | None = 0.0
    confidence: bool = False
    probabilities: bool = False
    abundances: bool = False
    preview: bool = False
    stac: bool = False
    vector: Path | None = None
    min_area_m2: float = 0.0
    compress: str = "deflate"
    overwrite: bool = False
    resume: bool = True

    def threshold(self, document: ModelDocument) -> float:
        """Return the smallest accepted probability.

        Raises:
            ModelFileError: The model shall choose, and suggests none.
        """
        chosen = self.reject_below
        if chosen is None:
            chosen = document.reject_below
        if chosen is None:
            raise ModelFileError(
                "The model suggests no threshold: its validation pixels were too few, "
                "too often right, or too alike in confidence. Give one, --reject P."
            )
        return chosen

    @property
    def part(self) -> str:
        """The part of the scene, as text for the output's tags."""
        if self.window is not None:
            row, col, rows, cols = self.window
            return f"window {col},{row},{cols},{rows}"
        if self.bounds is not None:
            return f"bbox {','.join(map(repr, self.bounds))}"
        return "whole"

    def wanted(self) -> list[str]:
        """Name the outputs."""
        asked = {
            "classes": True,
            "confidence": self.confidence,
            "probabilities": self.probabilities,
            "abundances": self.abundances,
            "preview": self.preview,
            "stac": self.stac,
            "vector": self.vector is not None,
        }
        return [name for name, yes in asked.items() if yes]
