"""What the user asks of a scene, and the plan that follows from scene and model."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from hsi_runtime import memory, windows
from hsi_runtime.backends import best_tile
from hsi_runtime.bands import BandMatch, match_bands
from hsi_runtime.errors import ModelFileError
from hsi_runtime.model_file import ModelDocument
from hsi_runtime.regions import Bounds, region_of
from hsi_runtime.scene import Scene, SceneInfo
from hsi_runtime.units import Conversion, conversion
from hsi_runtime.windows import Plan, Window

log = logging.getLogger(__name__)


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


class Matched(NamedTuple):
    """A scene matched to a model, and the part to classify."""

    match: BandMatch
    units: Conversion
    region: Window


class Prepared(NamedTuple):
    """Likewise, and the plan to walk that part."""

    match: BandMatch
    units: Conversion
    region: Window
    plan: Plan


def match_scene(scene: Scene, document: ModelDocument, request: Request) -> Matched:
    """Match a scene to a model; say what the user should know.

    Raises:
        BandMismatchError: The scene lacks what the model needs.
        ModelFileError: The model lacks what was asked for.
        OutputError: Polygons cannot be written under that name, or of so many pixels.
        ResourceError: The memory allowed is too little.
        SceneError: The part asked for lies outside.
    """
    info, bands = scene.info, document.bands
    if request.abundances and not document.unmixes:
        raise ModelFileError(
            f"--abundances: method {document.method} gives none; train a method that "
            "unmixes, such as s2vnet."
        )
    match = match_bands(
        info, bands.wavelengths_nm, bands.source_count, bands.used, bands.fwhm_nm
    )
    units = conversion(info, match, document.values)
    region = region_of(info, request.window, request.bounds)
    for sentence in (*info.notes, *match.warnings, *units.warnings):
        log.warning(sentence)
    placed = info.transform or info.control or info.rpcs
    if not placed and info.driver != "memory":
        log.warning(f"{info.path.name} has no georeference; neither has its class map.")
    # What does not suffice for one window is said before an engine starts.
    memory.share(document, request.tile, request.max_memory_bytes)
    memory.check_blocks(info, request.max_memory_bytes)
    if request.vector is not None:
        from hsi_runtime import polygons  # of an extra: one that is missing is told now

        polygons.check(request.vector, region.rows * region.cols)
    return Matched(match, units, region)


def prepare(
    info: SceneInfo,
    matched: Matched,
    document: ModelDocument,
    request: Request,
    device: str,
    at_once: int,
) -> Prepared:
    """Plan the walk.

    Args:
        info: Of the scene.
        matched: It, matched to the model.
        document: Of the model.
        request: What the user asked for.
        device: Of the engine.
        at_once: Windows that the engine computes at once.

    Raises:
        ResourceError: The memory allowed is too little.
    """
    limits = request.tile, request.max_memory_bytes
    tile, strip_bytes = memory.share(
        document, *limits, best_tile(document, device), at_once
    )
    plan = windows.plan(
        (info.rows, info.cols),
        matched.region,
        len(matched.match.indices) * info.dtype.itemsize,
        info.block,
        document.halo,
        tile,
        strip_bytes,
        # Who limits the memory wants short strips, too.
        windows.STRIP_SQUARES if limits == (None, None) else 1,
    )
    return Prepared(*matched, plan)
