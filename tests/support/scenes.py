import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.features
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import from_origin


@pytest.fixture(scope="session")
def write_scene_tiff() -> Callable[..., Path]:
    """Write a cube ``(band, row, col)`` as a GeoTIFF that suits `document`."""

    def write(
        path: Path,
        cube: NDArray[Any],
        wavelengths: Sequence[float] | None = (450.0, 550.0, 650.0, 850.0),
        scale: float | None = 1e-4,
        **options: Any,
    ) -> Path:
        bands, rows, cols = cube.shape
        profile = {
            "driver": "GTiff",
            "count": bands,
            "height": rows,
            "width": cols,
            "dtype": cube.dtype,
            "crs": "EPSG:32633",
            "transform": from_origin(400_000, 5_800_000, 2, 2),
            **options,
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path, "w", **profile) as file:
                file.write(cube)
                if scale is not None:
                    file.scales = (scale,) * bands
                for band, centre in enumerate(wavelengths or (), start=1):
                    file.update_tags(
                        band, wavelength=repr(centre), wavelength_units="Nanometers"
                    )
        return path

    return write


@pytest.fixture(scope="session")
def cube() -> NDArray[np.uint16]:
    """Return 4 bands of 23 x 31 pixels, patches with noise, nowhere 0."""
    random = np.random.default_rng(2)
    patches = np.kron(random.integers(500, 9000, (4, 6, 8)), np.ones((1, 4, 4)))
    rough = patches[:, :23, :31] + random.normal(0, 300, (4, 23, 31))
    return rough.clip(1, 9999).astype(np.uint16)


@pytest.fixture(scope="session")
def write_crowns() -> Callable[[Path], None]:
    """Outline two classes of a folder's ``labels.tif`` as polygons with a genus."""
    pyogrio = pytest.importorskip("pyogrio")
    shapely = pytest.importorskip("shapely")

    def write(folder: Path) -> None:
        with rasterio.open(folder / "labels.tif") as raster:
            labels, transform, crs = raster.read(1), raster.transform, raster.crs
        values, counts = np.unique(labels[labels > 0], return_counts=True)
        common = values[counts.argsort()[-2:]].tolist()
        genera = dict(zip(common, ("Acer", "Pinus"), strict=True))
        found = [
            (shapely.geometry.shape(shape), genera[int(code)])
            for shape, code in rasterio.features.shapes(labels, transform=transform)
            if int(code) in genera
        ]
        pyogrio.raw.write(
            folder / "crowns.gpkg",
            shapely.to_wkb([polygon for polygon, _ in found]),
            [np.array([genus for _, genus in found], dtype=object)],
            ["genus"],
            geometry_type="Polygon",
            crs=crs.to_wkt(),
            driver="GPKG",
        )

    return write
