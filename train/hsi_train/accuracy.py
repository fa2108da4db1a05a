"""Compares a class map with a truth raster on the same grid.

python -m hsi_train.accuracy scene_classes.tif truth.tif
"""

from pathlib import Path
from typing import Any

import click
import numpy as np
import rasterio
from rasterio.errors import RasterioError
from rasterio.windows import Window

from hsi_runtime import command_line
from hsi_runtime.errors import SceneError
from hsi_train import metrics

ROWS = 512  # read at once


def compare(
    class_map: Path,
    truth: Path,
    abundances: Path | None = None,
    min_abundance: float = 0.0,
) -> dict[str, Any]:
    """Measure accuracy where the truth has a label and the map has data.

    Args:
        class_map: Output of hsi-run.
        truth: Codes on the same grid, 0 = unlabelled.
        abundances: Fractions of the materials, one band for each; optional.
        min_abundance: Only pixels whose largest fraction reaches it count.

    Returns:
        Pixels compared, overall accuracy, average accuracy and kappa.

    Raises:
        SceneError: The rasters do not lie on one grid, or share no labelled pixel.
    """
    with rasterio.Env(GDAL_CACHEMAX=64):
        found, true = _open(class_map), _open(truth)
        pure = _open(abundances) if abundances else None
        for other in (true, pure):
            if other is not None and other.shape != found.shape:
                raise SceneError(
                    f"{other.name} has {other.shape} pixels, {found.name} "
                    f"{found.shape}; both must lie on one grid."
                )
        pairs: dict[tuple[int, int], int] = {}
        for top in range(0, found.height, ROWS):
            window = Window(0, top, found.width, min(ROWS, found.height - top))
            codes, labels = found.read(1, window=window), true.read(1, window=window)
            use = (labels != 0) & (codes != found.nodata)
            if pure is not None:
                use &= pure.read(window=window).max(axis=0) >= min_abundance
            both = np.stack([labels[use], codes[use]]).astype(np.int64)
            values, counts = np.unique(both, axis=1, return_counts=True)
            for (label, code), n in zip(values.T, counts, strict=True):
                key = int(label), int(code)
                pairs[key] = pairs.get(key, 0) + int(n)
    if not pairs:
        raise SceneError(f"{class_map} and {truth} share no labelled pixel.")
    every = sorted({code for pair in pairs for code in pair})
    matrix = np.zeros((len(every), len(every)), dtype=np.int64)
    for (label, code), n in pairs.items():
        matrix[every.index(label), every.index(code)] = n
    return {
        "pixels": int(matrix.sum()),
        "overall_accuracy": metrics.overall_accuracy(matrix),
        "average_accuracy": metrics.average_accuracy(matrix),
        "kappa": metrics.kappa(matrix),
    }


def _open(path: Path) -> Any:
    try:
        return rasterio.open(path, driver="GTiff")
    except RasterioError as error:
        raise SceneError(f"{path} is not a readable GeoTIFF: {error}") from error


@click.command(name="hsi_train.accuracy")
@click.argument("class_map", type=click.Path(path_type=Path))
@click.argument("truth", type=click.Path(path_type=Path))
@click.option("--abundances", type=click.Path(path_type=Path))
@click.option("--min-abundance", type=click.FloatRange(0, 1), default=0.0)
def command(
    class_map: Path, truth: Path, abundances: Path | None, min_abundance: float
) -> None:
    """Print the accuracy of CLASS_MAP against TRUTH."""
    found = compare(class_map, truth, abundances, min_abundance)
    click.echo(
        "{pixels:,} pixels: overall accuracy {overall_accuracy:.2%}, average accuracy "
        "{average_accuracy:.2%}, kappa {kappa:.3f}".format(**found)
    )


if __name__ == "__main__":
    command_line.run(command)
