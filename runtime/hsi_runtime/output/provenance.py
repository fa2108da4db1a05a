"""The tags that say where a map comes from, and whether a map is already finished."""

import importlib.metadata
import os
from collections.abc import Callable
from pathlib import Path

from rasterio.errors import RasterioError

from hsi_runtime.model.model_file import ModelFile
from hsi_runtime.model.plain_text import plain
from hsi_runtime.scenes.geotiff import open_tiff
from hsi_runtime.scenes.scene import SceneInfo

SETS_KEY = "HSI_SETS"  # where sets are written: their level


def provenance(
    model: ModelFile,
    info: SceneInfo,
    scene_sha256: str,
    engine: tuple[str, str],
    bands: str,
    part: str,
    reject_below: float,
) -> dict[str, str]:
    """Collect the tags that say where a map comes from; no clock, so bytes repeat.

    Args:
        model: Model that made the map.
        info: Description of the scene.
        scene_sha256: Hash of every byte of the scene, by `fingerprint.content_sha256`.
        engine: Device and precision.
        bands: How the scene's bands were matched.
        part: Part of the scene, as text.
        reject_below: Smallest accepted probability.
    """
    device, precision = engine
    version = importlib.metadata.version("hsi-edge")
    delivered = {}
    if info.product is not None:
        delivered = {
            "HSI_PRODUCT": plain(f"{info.product.kind} {info.product.name}".strip()),
            "HSI_ACQUIRED": plain(info.product.time),
        }
    return {
        "TIFFTAG_SOFTWARE": f"hsi-edge {version}",
        "HSI_SCENE": plain(info.path.name),
        "HSI_SCENE_SHA256": scene_sha256,
        "HSI_METHOD": plain(model.document.method),
        "HSI_MODEL_SHA256": model.sha256,
        "HSI_PRECISION": precision,
        "HSI_DEVICE": device,
        "HSI_BANDS": bands,
        "HSI_PART": part,
        "HSI_REJECT": repr(reject_below),
        **{key: value for key, value in delivered.items() if value},
    }


def is_finished(
    output: Path,
    model: ModelFile,
    scene_sha256: Callable[[], str],
    part: str,
    reject_below: float,
    sets: float | None = None,
) -> bool:
    """Return True if an output shows this part of this scene as this run would.

    Args:
        output: A raster, the class map or another.
        model: Model that the output must be of.
        scene_sha256: Gives the hash of the scene, which is asked for last.
        part: Part of the scene, as text.
        reject_below: Smallest accepted probability.
        sets: Level of the sets that it shows, if it shows any.
    """
    if not os.path.isfile(output):
        return False
    try:
        with open_tiff(output) as raster:
            tags = raster.tags()
    except RasterioError:
        return False
    keys = "HSI_MODEL_SHA256", "HSI_PART", "HSI_REJECT"
    if [tags.get(key) for key in keys] != [model.sha256, part, repr(reject_below)]:
        return False
    if sets is not None and tags.get(SETS_KEY) != repr(sets):
        return False
    # Size, time and samples cannot tell a scene that was edited in place from its copy.
    content: str | None = tags.get("HSI_SCENE_SHA256")
    return content == scene_sha256()
