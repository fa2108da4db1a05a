"""Describes a trained network for export: bands, values, provenance, a sample."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.matching.units import REFLECTANCE, UNKNOWN
from hsi_runtime.model.model_file import (
    Bands,
    Provenance,
    SetLevel,
    Values,
)
from hsi_runtime.model.training import Training
from hsi_train import recipe
from hsi_train.data.cutting import cut_cube
from hsi_train.data.labelled_scene import LabelledData
from hsi_train.data.roles import Role
from hsi_train.method import Problem
from hsi_train.recipe import Recipe
from hsi_train.run_folder import checkpoint


def bands_of(data: LabelledData) -> Bands:
    """Describe which bands of which sensor the model will use."""
    info, used = data.reference, data.bands
    return Bands(
        source_count=info.bands,
        used=used.tolist(),
        wavelengths_nm=_chosen(info.wavelengths_nm, used),
        fwhm_nm=_chosen(info.fwhm_nm, used),
    )


def values_of(settings: Recipe, data: LabelledData, problem: Problem) -> Values:
    """Describe the values that the model will expect."""
    info, used = data.reference, data.bands
    quantity = settings.data.quantity
    stated = settings.data.dark is not None or settings.data.spectra is not None
    if stated and quantity == UNKNOWN:
        quantity = REFLECTANCE
    return Values(
        quantity=quantity,
        dtype=info.dtype.name,
        scale=_chosen(info.scale, used),
        offset=_chosen(info.offset, used),
        fill=problem.fill.tolist(),
    )


def _chosen(
    values: NDArray[np.float64] | None, used: NDArray[np.intp]
) -> list[float] | None:
    return None if values is None else values[used].tolist()


def describe(
    resolved: Recipe,
    data: LabelledData,
    bands: Bands,
    values: Values,
    data_sha256: dict[str, str],
    result: dict[str, Any],
    training: Training,
) -> checkpoint.Description:
    """Collect what an exported model must say about itself."""
    return checkpoint.Description(
        method=resolved.method,
        members=resolved.members,
        options=resolved.options,
        classes=data.classes,
        bands=bands,
        values=values,
        resolution_m=data.reference.resolution_m,
        reject_below=(result["calibration"] or {}).get("reject"),
        set_levels=[
            SetLevel(level=one["level"], threshold=one["threshold"])
            for one in result["sets"]
        ],
        training=training,
        provenance=Provenance(
            version=result["version"],
            seed=resolved.seed,
            recipe=recipe.dump(resolved),
            data_sha256=data_sha256,
            counts={k: result["counts"][k] for k in ("train", "validation", "test")},
            overall_accuracy=result["overall_accuracy"],
            average_accuracy=result["average_accuracy"],
            kappa=result["kappa"],
        ),
    )


def sample_window(
    data: LabelledData, halo: int, fill: NDArray[np.float64]
) -> NDArray[Any]:
    """Cut a real window round the first training pixels, as large as the scene gives.

    Missing values are filled, so that the window needs no mask; ``fill`` has the shape
    ``(band,)``. Spectra fill a whole square, each of them several times.
    """
    scene = next(s for s in data.scenes if (s.roles == Role.TRAIN).any())
    side = checkpoint.SAMPLE_OUTPUTS + 2 * halo
    row, col = (int(v) for v in np.argwhere(scene.roles == Role.TRAIN)[0])
    rows, cols = scene.valid.shape
    # A scene smaller than the receptive field is continued by mirroring.
    height, width = (max(min(side, n), 2 * halo + 1) for n in (rows, cols))
    if data.spectra is not None:
        height = width = side
    top = min(max(row - halo, 0), max(rows - height, 0))
    left = min(max(col - halo, 0), max(cols - width, 0))
    cube = cut_cube(
        scene,
        scene.valid,
        fill.astype(np.float32)[:, None, None],
        (top, top + height),
        (left, left + width),
    )
    if scene.cube.dtype.kind in "iu":
        return np.rint(cube).astype(scene.cube.dtype)
    return cube
