"""Real EMIT excerpts with their true lookup tables, read against their coordinates."""

from pathlib import Path

import numpy as np
import pytest

from hsi_runtime.errors import SceneError
from hsi_runtime.scenes.hdf5.container import Container
from hsi_runtime.scenes.hdf5.lookup_table import LookupTable
from hsi_runtime.scenes.opening import open_scene

NAMES = "location/glt_y", "location/glt_x"


@pytest.fixture(params=["L2A_MASK", "L1B_OBS"])
def excerpt(request: pytest.FixtureRequest, data_dir: Path) -> Path:
    found = sorted((data_dir / "products" / "emit").glob(f"EMIT_{request.param}_*.nc"))
    if not found:
        pytest.skip("needs the EMIT excerpts in HSI_DATA")
    return found[0]


def test_real_table_places_pixels_where_their_coordinates_are(excerpt: Path) -> None:
    with Container(excerpt) as file:
        stated = file.attribute_numbers("geotransform")
        latitude, longitude = (file.numbers(f"location/{n}") for n in ("lat", "lon"))
        assert stated is not None
        assert latitude is not None
        assert longitude is not None
        a, b, c, d, e, f = stated.tolist()
        table = LookupTable(
            file,
            names=NAMES,
            size=latitude.shape,
            crs=None,
            transform=(a, b, c, d, e, f),
        )
    cells = table.read((0, table.rows), (0, table.cols))  # the file is closed
    rows, cols = np.nonzero(cells.rows >= 0)
    pixels = cells.rows[rows, cols], cells.cols[rows, cols]
    apart = np.hypot(
        (a + (cols + 0.5) * b - longitude[pixels]) / b,
        (d + (rows + 0.5) * f - latitude[pixels]) / f,
    )
    assert np.median(apart) < 0.7
    assert np.percentile(apart, 99) < 1.2
    assert len(rows) / table.rows / table.cols == pytest.approx(0.51, abs=0.01)
    stand_in = len(rows) / len(np.unique(pixels[0] * latitude.shape[1] + pixels[1]))
    assert stand_in == pytest.approx(1.5, abs=0.01)


def test_parts_of_the_table_are_parts_of_the_whole(excerpt: Path) -> None:
    with Container(excerpt) as file:
        table = LookupTable(
            file, names=NAMES, size=(200, 200), crs=None, transform=(0, 1, 0, 0, 0, -1)
        )
    whole = table.read((0, table.rows), (0, table.cols))
    part = table.read((100, 170), (33, 350))
    for of_part, of_whole in zip(part, whole, strict=True):
        np.testing.assert_array_equal(of_part, of_whole[100:170, 33:350])


def test_real_files_without_reflectance_are_named(excerpt: Path) -> None:
    with pytest.raises(SceneError, match="file of EMIT without reflectance"):
        open_scene(excerpt)
