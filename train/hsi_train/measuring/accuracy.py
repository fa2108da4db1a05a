"""Compares a class map with a truth raster on the same grid."""

import contextlib
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.windows import Window

from hsi_runtime.errors import SceneError
from hsi_runtime.model.model_file import ClassEntry
from hsi_runtime.scenes.opening import open_raster
from hsi_runtime.scenes.scene import SceneInfo
from hsi_train.data import labels
from hsi_train.measuring import area_estimate, metrics

ROWS = 512  # read at once


def compare(
    class_map: Path,
    truth: Path,
    abundances: Path | None = None,
    min_abundance: float = 0.0,
    probability_sample: bool = False,
) -> dict[str, Any]:
    """Measure accuracy where the truth has a label and the map has data.

    Args:
        class_map: Output of hsi-run.
        truth: Codes on the same grid; 0, nodata and NaN are unlabelled.
        abundances: Fractions of the materials, one band for each, as such or by the
            scale that the file declares, as hsi-run writes them; optional.
        min_abundance: Only pixels whose largest fraction reaches it count.
        probability_sample: The truth was drawn at random, from the whole map or within
            each of its classes: estimate areas, too.

    Returns:
        Pixels compared, overall accuracy, average accuracy and kappa; with a sample
        also ``area_adjusted``, see `area_estimate.report`.

    Raises:
        SceneError: The rasters do not lie on one grid, share no labelled pixel, the
            truth holds no codes, or the sample is too small.
    """
    info = _describe(class_map)
    for path in filter(None, (truth, abundances)):
        labels.check_grid(str(path), _describe(path), info)
    for path, what in ((class_map, "class map"), (truth, "raster of labels")):
        if (bands := _describe(path).bands) != 1:
            raise SceneError(f"{path} has {bands} bands; a {what} has one.")
    tally = _count(class_map, truth, abundances, min_abundance)
    if not tally.pairs:
        raise SceneError(f"{class_map} and {truth} share no labelled pixel.")
    codes, matrix = tally.confusion()
    result: dict[str, Any] = {
        "pixels": int(matrix.sum()),
        "overall_accuracy": metrics.overall_accuracy(matrix),
        "average_accuracy": metrics.average_accuracy(matrix),
        "kappa": metrics.kappa(matrix),
    }
    if probability_sample:
        mapped = np.array([tally.mapped[code] for code in codes])
        if lacking := area_estimate.unsampled(matrix, mapped):
            raise SceneError(
                f"{truth}: fewer than {area_estimate.MIN_SAMPLES} pixels of the sample "
                f"are mapped as {', '.join(str(codes[k]) for k in lacking)}, so areas "
                "cannot be estimated; label more random pixels there."
            )
        classes = [ClassEntry(code=code, name=str(code), color="") for code in codes]
        side = info.resolution_m
        result["area_adjusted"] = area_estimate.report(
            matrix, mapped, classes, None if side is None else side**2
        )
    return result


class _Tally(NamedTuple):
    """Pixels counted by code.

    Attributes:
        pairs: Labelled pixels by code of the truth and code of the map.
        mapped: All pixels of the map by code.
    """

    pairs: Counter[tuple[int, int]]
    mapped: Counter[int]

    def confusion(self) -> tuple[list[int], metrics.Confusion]:
        """Return all codes in order, and the matrix of the pairs."""
        codes = sorted(
            {code for pair in self.pairs for code in pair} | set(self.mapped)
        )
        matrix = np.zeros((len(codes), len(codes)), dtype=np.int64)
        for (label, code), n in self.pairs.items():
            matrix[codes.index(label), codes.index(code)] = n
        return codes, matrix


def _count(
    class_map: Path, truth: Path, abundances: Path | None, min_abundance: float
) -> _Tally:
    """Count the pixels of both rasters, some rows at a time; see `compare`."""
    tally = _Tally(Counter(), Counter())
    with rasterio.Env(GDAL_CACHEMAX=64):
        predicted, true = _open(class_map), _open(truth)
        pure = _open(abundances) if abundances else None
        for top in range(0, predicted.height, ROWS):
            height = min(ROWS, predicted.height - top)
            window = Window(0, top, predicted.width, height)
            stored = predicted.read(1, window=window)
            known = np.isfinite(stored)
            if predicted.nodata is not None:
                known &= stored != predicted.nodata
            codes = _map_codes(class_map, stored, known)
            classes = labels.whole_codes(
                str(truth), true.read(1, window=window), true.nodata
            )
            for code, n in zip(
                *np.unique(codes[known], return_counts=True), strict=True
            ):
                tally.mapped[int(code)] += int(n)
            use = (classes != 0) & known
            if pure is not None:
                use &= _largest(pure, window) >= min_abundance
            both = np.stack([classes[use], codes[use]]).astype(np.int64)
            values, counts = np.unique(both, axis=1, return_counts=True)
            for (label, code), n in zip(values.T, counts, strict=True):
                tally.pairs[int(label), int(code)] += int(n)
    return tally


def _map_codes(
    class_map: Path, stored: NDArray[Any], known: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Return the codes of a class map, 0 where it has no data.

    Raises:
        SceneError: It holds other numbers than codes, so that it is no class map.
    """
    codes = np.where(known, stored, 0)
    try:
        return labels.whole_codes(str(class_map), codes)
    except SceneError as error:
        raise SceneError(f"{error} Is it a class map?") from None


def area_table(adjusted: dict[str, Any]) -> str:
    """Show the estimates with their 95 % intervals as text, a line for each class."""

    def shown(interval: list[float] | None) -> str:
        if interval is None:
            return f"{'-':>21}"
        value, low, high = (100 * v for v in interval)
        return f"{value:6.1f} ({low:5.1f}..{high:5.1f})"

    lines = ["class     area share, %          user's, %              producer's, %"]
    for entry in adjusted["classes"]:
        keys = ("area_share", "users_accuracy", "producers_accuracy")
        figures = "  ".join(shown(entry[key]) for key in keys)
        lines.append(f"{entry['code']:5}  {figures}".rstrip())
    overall = shown(adjusted["overall_accuracy"]).strip()
    return "\n".join([*lines, f"overall accuracy, of the area: {overall} %"])


def _largest(abundances: Any, window: Window) -> NDArray[np.float64]:
    """Read the largest fraction of each pixel of a window, 0 where there is none."""
    stored = abundances.read(window=window, masked=True)  # (material, row, col)
    scale = np.array(abundances.scales)[:, None, None]
    offset = np.array(abundances.offsets)[:, None, None]
    largest: NDArray[np.float64] = (stored * scale + offset).filled(0.0).max(axis=0)
    return largest


def _describe(path: Path) -> SceneInfo:
    with contextlib.closing(open_raster(path)) as scene:
        return scene.info


def _open(path: Path) -> Any:
    try:
        return rasterio.open(path, driver="GTiff")
    except RasterioError as error:
        raise SceneError(f"{path} is not a readable GeoTIFF: {error}") from error
