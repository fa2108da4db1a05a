"""Matches a scene to a model and plans the walk, before any pixel is read."""

import importlib.metadata
import logging
from typing import Any, NamedTuple

from hsi_runtime.engines.opening import best_tile
from hsi_runtime.errors import ModelFileError
from hsi_runtime.matching.bands import BandMatch, match_bands
from hsi_runtime.matching.units import Conversion, conversion
from hsi_runtime.model.model_file import ModelDocument, ModelFile
from hsi_runtime.request import Request
from hsi_runtime.scenes.scene import Scene, SceneInfo
from hsi_runtime.walk import memory, windows
from hsi_runtime.walk.regions import region_of
from hsi_runtime.walk.windows import Plan, Window

log = logging.getLogger(__name__)


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
        from hsi_runtime.output import (
            polygons,  # of an extra: one that is missing is told now
        )

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


def dependencies(
    model: ModelFile,
    scene: dict[str, Any],
    prepared: Prepared,
    device: str,
    reject_below: float,
    layers: list[str],
) -> dict[str, Any]:
    """Collect all that the values of a map depend on."""
    return {
        "version": importlib.metadata.version("hsi-edge"),
        "scene": scene,
        "model": model.sha256,
        "bands": [int(b) for b in prepared.match.indices],
        "region": list(prepared.region),
        "strips": [[list(s.read), list(s.outputs)] for s in prepared.plan.strips],
        "panels": [list(p) for p in prepared.plan.panels],
        "tile": prepared.plan.tile,
        "device": device,
        "reject": reject_below,
        "outputs": layers,
    }
