"""Labels between the ground and a scene in the geometry of its sensor."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS

from hsi_runtime.scenes.array_scene import ArrayScene
from hsi_runtime.scenes.scene import Cells, SceneInfo
from hsi_train.data.labels import open_labels
from hsi_train.data.rasters import from_ground, to_ground, write_raster

PLACE = (10.0, 0.5, 0.0, 50.0, 0.0, -0.5)


class Table:
    """A lookup table in memory."""

    crs, transform = CRS.from_epsg(4326).to_wkt(), PLACE

    def __init__(self, rows: Any, cols: Any) -> None:
        self._cells = Cells(np.array(rows), np.array(cols))
        self.rows, self.cols = self._cells.rows.shape

    def read(self, rows: tuple[int, int], cols: tuple[int, int]) -> Cells:
        place = np.s_[slice(*rows), slice(*cols)]
        return Cells(self._cells.rows[place], self._cells.cols[place])


@pytest.fixture
def info() -> SceneInfo:
    """A swath of 2 x 2 pixels on a grid of 3 x 4 cells; one pixel stands in none."""
    table = Table(
        rows=[[0, 0, -1, 0], [0, 0, 1, 1], [-1, 1, 1, -1]],
        cols=[[0, 0, -1, 1], [0, 1, 0, 0], [-1, 0, 0, -1]],
    )
    scene = ArrayScene(np.ones((3, 2, 2), "u2"), Path("swath.nc"))
    return replace(scene.info, placement=table)


def test_pixel_takes_the_code_that_all_of_its_cells_share(info: SceneInfo) -> None:
    codes = np.array([[5, 5, 9, 3], [0, 4, 7, 8], [9, 7, 7, 9]])
    # Cells (0, 0), (0, 1) and an unlabelled one agree; (0, 3) and (1, 1) do not; (1, 3)
    # is another than its three neighbours; what stands in no cell is lost.
    expected = [[5, 0], [0, 0]]
    assert from_ground(codes, info).tolist() == expected
    codes[1, 3] = 0
    codes[1, 1] = 3
    assert from_ground(codes, info).tolist() == [[5, 3], [7, 0]]


def test_values_come_back_from_the_ground(info: SceneInfo) -> None:
    values = np.array([[1, 2], [3, 4]], dtype=np.uint8)
    ground = to_ground(values, info)
    assert ground.tolist() == [[1, 1, 0, 2], [1, 2, 3, 3], [0, 3, 3, 0]]
    assert ground.dtype == np.uint8
    assert from_ground(ground.astype(np.int64), info).tolist() == [[1, 2], [3, 0]]


def test_scene_on_a_grid_keeps_its_codes() -> None:
    info = ArrayScene(np.ones((3, 2, 2), "u2")).info
    codes: NDArray[np.int64] = np.arange(4).reshape(2, 2)
    assert from_ground(codes, info) is codes
    assert to_ground(codes, info) is codes


def test_raster_is_written_on_the_ground_and_read_as_labels(
    info: SceneInfo, tmp_path: Path
) -> None:
    path = tmp_path / "split.tif"
    write_raster(path, np.array([[1, 2], [3, 4]], dtype=np.uint8), info)
    with rasterio.open(path) as file:
        assert file.shape == (3, 4)
        assert file.crs == CRS.from_epsg(4326)
        assert file.transform.to_gdal() == PLACE
    codes = open_labels([str(path)], 1).codes(0, info)
    assert codes.tolist() == [[1, 2], [3, 0]]


def test_shapes_are_drawn_on_the_ground(info: SceneInfo, tmp_path: Path) -> None:
    pytest.importorskip("pyogrio")
    path = tmp_path / "labels.geojson"
    path.write_text(
        '{"type": "FeatureCollection", "features": [{"type": "Feature", "properties": '
        '{"code": 6}, "geometry": {"type": "Polygon", "coordinates": [[[10, 50], '
        "[11, 50], [11, 49], [10, 49], [10, 50]]]}}]}"
    )
    codes = open_labels([str(path)], 1, "code").codes(0, info)
    assert codes.tolist() == [[6, 6], [0, 0]]
