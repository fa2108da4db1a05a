"""Brings the scenes of a training run to one list of bands."""

import re

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.errors import SceneError
from hsi_runtime.matching.bands import match_bands
from hsi_runtime.scenes.scene import SceneInfo


def good_bands(info: SceneInfo) -> NDArray[np.intp]:
    """Return the 0-based bands that the file does not mark as bad.

    Raises:
        SceneError: All are marked.
    """
    if not info.good.any():
        raise SceneError(
            f"{info.path.name} marks every band as bad (bbl is 0); correct its header "
            "or tags."
        )
    return np.flatnonzero(info.good)


def matching_bands(
    first: SceneInfo, info: SceneInfo, bands: NDArray[np.intp], warnings: list[str]
) -> NDArray[np.intp]:
    """Find the first scene's used bands in another scene.

    Args:
        first: The scene that defines bands and stored units.
        info: The other scene, or the same.
        bands: 0-based used bands of the first scene.
        warnings: Messages for the user, to which new ones are added.

    Raises:
        BandMismatchError: The other scene lacks bands.
        SceneError: The other scene has other band centres or stored units.
    """
    if info is first:
        return bands
    centres = None if first.wavelengths_nm is None else first.wavelengths_nm[bands]
    match = match_bands(
        info, None if centres is None else centres.tolist(), first.bands, bands.tolist()
    )
    if match.resampling is not None:
        raise SceneError(
            f"{info.path.name} and {first.path.name} have different band centres; "
            "training needs one list of bands. Resample one of them first."
        )
    if info.dtype != first.dtype:
        raise SceneError(
            f"{info.path.name} stores {info.dtype}, {first.path.name} {first.dtype}; "
            "training needs all scenes in the same stored units."
        )
    for name in ("scale", "offset"):
        ours, theirs = getattr(first, name), getattr(info, name)
        here = None if ours is None else ours[bands]
        there = None if theirs is None else theirs[match.indices]
        if not _same(here, there):
            raise SceneError(
                f"{info.path.name} declares another {name} than {first.path.name}; "
                "training needs all scenes in the same stored units."
            )
    for sentence in match.warnings:
        if sentence not in warnings:
            warnings.append(sentence)
    return match.indices


def _same(a: NDArray[np.float64] | None, b: NDArray[np.float64] | None) -> bool:
    if a is None or b is None:
        return a is b
    return np.allclose(a, b, rtol=1e-6, atol=0)


def undeclared(info: SceneInfo) -> list[str]:
    """Say what the first scene does not declare, and which files may hold it."""
    lacking = [
        name
        for name, value in (("wavelengths", info.wavelengths_nm), ("scale", info.scale))
        if value is None
    ]
    if info.dtype.kind == "f":  # mostly the quantity itself
        lacking = [name for name in lacking if name != "scale"]
    if not lacking:
        return []
    effects = {
        "wavelengths": "the model will match bands by their position only",
        "scale": "the model will fit only scenes with the same stored units",
    }
    message = (
        f"{info.path.name} declares no {' and no '.join(lacking)}: "
        f"{', and '.join(effects[name] for name in lacking)}."
    )
    if beside := _descriptions(info):
        message += f" {', '.join(beside)} may hold them: add them to the scene."
    return [message]


def _descriptions(info: SceneInfo) -> list[str]:
    """Name files beside a scene that describe it or its product, at most three."""
    scene = info.path.absolute()
    own = {path.name for path in info.files}
    likely = {scene.name + ".hdr", scene.stem + ".hdr", scene.stem + ".xml"}
    likely = {name.lower() for name in likely}
    try:
        names = sorted(path.name for path in scene.parent.iterdir())
    except OSError:
        return []
    return [
        name
        for name in names
        if name not in own
        and (
            name.lower() in likely
            or re.search(r"metadata.*\.(xml|json|txt)$", name, re.IGNORECASE)
        )
    ][:3]
