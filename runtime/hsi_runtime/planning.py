"""Matches a scene to a model and plans the walk, before any pixel is read."""

import logging
from dataclasses import dataclass

from hsi_runtime.engines.opening import best_tile
from hsi_runtime.errors import ModelFileError
from hsi_runtime.matching.bands import BandMatch, match_bands
from hsi_runtime.matching.units import Conversion, conversion
from hsi_runtime.model.model_file import ModelDocument
from hsi_runtime.request import Request
from hsi_runtime.scenes.scene import Scene, SceneInfo
from hsi_runtime.walk import memory, windows
from hsi_runtime.walk.regions import region_of
from hsi_runtime.walk.windows import Plan, Window

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class MatchedScene:
    """A scene matched to a model, and the part of it to classify.

    Attributes:
        info: What the scene says about itself.
        bands: Bands of the scene that the model needs.
        units: Conversion from the scene's stored values to the model's.
        region: Pixels to classify.
    """

    info: SceneInfo
    bands: BandMatch
    units: Conversion
    region: Window


def match_scene(
    scene: Scene, document: ModelDocument, request: Request
) -> MatchedScene:
    """Match a scene to a model, and log what the user should know.

    What does not suffice for one window is refused here, before an engine starts.

    Raises:
        BandMismatchError: The scene lacks what the model needs.
        ModelFileError: The model lacks what was requested.
        OutputError: Polygons cannot be written under that name, or of so many pixels.
        ResourceError: The memory allowed is too little.
        SceneError: The requested part lies outside.
    """
    info, model_bands = scene.info, document.bands
    if request.abundances and not document.unmixes:
        raise ModelFileError(
            f"--abundances: method {document.method} gives none; train a method that "
            "unmixes, such as s2vnet."
        )
    bands = match_bands(
        info,
        model_bands.wavelengths_nm,
        model_bands.source_count,
        model_bands.used,
        model_bands.fwhm_nm,
    )
    units = conversion(info, bands, document.values)
    region = region_of(info, request.window, request.bounds)
    for sentence in (*info.notes, *bands.warnings, *units.warnings):
        log.warning(sentence)
    placed = info.transform or info.control or info.rpcs
    if not placed and info.driver != "memory":
        log.warning(f"{info.path.name} has no georeference; neither has its class map.")
    memory.check_limit(document, request.tile, request.max_memory_bytes)
    memory.check_blocks(info, request.max_memory_bytes)
    if request.vector is not None:
        # It needs an extra: one that is missing is reported now.
        from hsi_runtime.output import polygons

        pixels = region.rows * region.cols
        polygons.check(request.vector, pixels, request.max_memory_bytes)
    return MatchedScene(info=info, bands=bands, units=units, region=region)


def plan_walk(
    matched: MatchedScene,
    document: ModelDocument,
    request: Request,
    device: str,
    windows_at_once: int,
) -> Plan:
    """Plan the walk over a scene for one engine.

    Args:
        matched: Scene matched to the model.
        document: Model document.
        request: What the user asked for.
        device: Device of the engine.
        windows_at_once: Windows that the engine computes at the same time.

    Raises:
        ResourceError: The memory allowed is too little.
    """
    info, limits = matched.info, (request.tile, request.max_memory_bytes)
    tile, strip_bytes = memory.tile_and_strip(
        document,
        *limits,
        default_tile=best_tile(document, device),
        windows_at_once=windows_at_once,
    )
    return windows.plan(
        (info.rows, info.cols),
        matched.region,
        pixel_bytes=len(matched.bands.indices) * info.dtype.itemsize,
        block=info.block,
        halo=document.halo,
        tile=tile,
        strip_bytes=strip_bytes,
        # A user who limits the memory wants short strips, too.
        squares=windows.STRIP_SQUARES if limits == (None, None) else 1,
    )
