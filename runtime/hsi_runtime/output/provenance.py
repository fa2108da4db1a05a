"""The tags that say where a map comes from, and whether a map is already finished."""

import importlib.metadata
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rasterio.errors import RasterioError

from hsi_runtime.errors import HsiError
from hsi_runtime.model.model_file import ModelFile
from hsi_runtime.model.plain_text import plain
from hsi_runtime.output.stac import tags_of_item
from hsi_runtime.scenes.geotiff import open_tiff
from hsi_runtime.scenes.scene import SceneInfo

SETS_KEY = "HSI_SETS"  # where sets are written: their level
ADAPT_KEY = "HSI_ADAPT"  # where bands were fitted to the training scene: how
COUNTER_KEY = "HSI_FRAME_COUNTER"  # where lines hold their number: its column and band
SCALE_KEY = "HSI_SCALE"  # where the user gave the scale of the values: that


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


def identity(
    model: ModelFile,
    part: str,
    reject_below: float,
    options: Mapping[str, object],
) -> dict[str, str | None]:
    """Collect the tags that every output of a run has, besides the scene's hash.

    Args:
        model: Model that made the map.
        part: Part of the scene, as text.
        reject_below: Smallest accepted probability.
        options: Further options that every output depends on, by key; None where one
            was not given.
    """
    return {
        "HSI_MODEL_SHA256": model.sha256,
        "HSI_PART": part,
        "HSI_REJECT": repr(reject_below),
        **{key: None if v is None else repr(v) for key, v in options.items()},
    }


def is_finished(
    name: str,
    output: Path,
    expected: dict[str, str | None],
    scene_sha256: Callable[[], str],
) -> bool:
    """Return True if an output shows this part of this scene as this run would.

    Args:
        name: Name of the output: a raster, ``preview`` or ``stac``.
        output: Its path.
        expected: Tags that it must have, None for those that it must not have.
        scene_sha256: Gives the hash of the scene, which is asked for last.
    """
    if not os.path.isfile(output):
        return False
    tags = _tags_of(name, output)
    if any(tags.get(key) != value for key, value in expected.items()):
        return False
    # Size, time and samples cannot tell a scene that was edited in place from its copy.
    content: str | None = tags.get("HSI_SCENE_SHA256")
    return content == scene_sha256()


def _tags_of(name: str, output: Path) -> dict[str, Any]:
    """Read the tags of an output; none where it is damaged."""
    try:
        if name == "preview":
            from hsi_runtime.output.preview import tags_of_preview

            return tags_of_preview(output)
        if name == "stac":
            return tags_of_item(output)
        with open_tiff(output) as raster:
            tags: dict[str, Any] = raster.tags()
            return tags
    except (OSError, ValueError, RecursionError, HsiError, RasterioError):
        return {}
