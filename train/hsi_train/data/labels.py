"""Reads labels: rasters on the scene's grid, MATLAB arrays, polygons and points."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from hsi_runtime.errors import SceneError
from hsi_runtime.files import local_file
from hsi_runtime.scenes.opening import open_scene
from hsi_runtime.scenes.scene import SceneInfo
from hsi_train.data import matlab
from hsi_train.data.classes import MAX_CODE, ClassTable, Codes

VECTOR_SUFFIXES = (".gpkg", ".geojson", ".json", ".shp", ".fgb")
GRID_TOLERANCE = 1e-3  # share of a pixel by which two grids may differ


class Labels(Protocol):
    """Labels of all scenes of a run."""

    def codes(self, number: int, info: SceneInfo) -> Codes:
        """Return label codes on a scene's grid, 0 = unlabelled, ``(row, col)``."""

    def class_table(self) -> ClassTable:
        """Return the names and colours in the files."""

    def warnings(self) -> list[str]:
        """Return messages for the user, after all codes were read."""


def open_labels(
    paths: Sequence[str],
    scenes: int,
    label_field: str | None = None,
    named: Mapping[int, str] | None = None,
) -> Labels:
    """Open one label raster for each scene, or one vector file for all.

    Args:
        paths: Label files.
        scenes: Number of scenes that they label.
        label_field: Attribute of the vector file that holds the class.
        named: Class names by code, from the class file: texts in a vector file take
            these codes.

    Raises:
        SceneError: The number of files does not fit, or a file is missing.
    """
    vectors = [p for p in paths if p.lower().endswith(VECTOR_SUFFIXES)]
    if vectors:
        if len(paths) > 1:
            raise SceneError(
                f"{len(paths)} label files, {vectors[0]} among them; expected one "
                "vector file for all scenes, or one raster for each."
            )
        from hsi_train.data.vectors import VectorLabels

        local_file(paths[0])
        return VectorLabels(paths[0], label_field, named)
    if len(paths) != scenes:
        raise SceneError(
            f"{len(paths)} label raster(s) for {scenes} scene(s); give one for each, "
            "in the same order."
        )
    if label_field is not None:
        raise SceneError(f"--label-field needs polygons or points; {paths[0]} is none.")
    return RasterLabels(paths)


class RasterLabels:
    """Label rasters and MATLAB label arrays on the grids of their scenes."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths
        self._table = ClassTable()

    def codes(self, number: int, info: SceneInfo) -> Codes:
        path = self._paths[number]
        values, table = read_codes(path, info)
        self._table = self._table.updated(table)
        return values

    def class_table(self) -> ClassTable:
        return self._table

    def warnings(self) -> list[str]:
        return []


class TrainAndTest:
    """Labels published as two maps: one of training, one of test pixels."""

    def __init__(self, train: Labels, test: Labels) -> None:
        self._train, self._test = train, test

    def codes(self, number: int, info: SceneInfo) -> Codes:
        train, test = (s.codes(number, info) for s in (self._train, self._test))
        both = int(((train != 0) & (test != 0)).sum())
        if both:
            raise SceneError(
                f"{both} pixels of {info.path.name} are in the map of training labels "
                "and in that of test labels; expected maps that share no pixel."
            )
        return train + test

    def class_table(self) -> ClassTable:
        return self._test.class_table().updated(self._train.class_table())

    def warnings(self) -> list[str]:
        return self._train.warnings() + self._test.warnings()


def read_codes(path: str, info: SceneInfo) -> tuple[Codes, ClassTable]:
    """Read a raster of whole numbers that lies on a scene's grid.

    Raises:
        SceneError: Another grid, another type, or codes outside 0..65534.
    """
    table = ClassTable()
    if matlab.is_matlab(path):
        values = matlab.read_array(path, 2)
        _check_size(path, values.shape, info)
    else:
        values, table = _read_raster(path, info)
    return whole_codes(path, values), table


def whole_codes(
    path: str, values: NDArray[Any], nodata: float | None = None
) -> NDArray[np.int64]:
    """Return label codes as whole numbers, nodata and what is not finite as 0.

    Raises:
        SceneError: Other numbers than 0..65534.
    """
    if nodata is not None:
        values = np.where(values == nodata, 0, values)
    if values.dtype.kind == "f":
        values = np.where(np.isfinite(values), values, 0)
    inside = values.min() >= 0 and values.max() <= MAX_CODE
    if not inside or not np.array_equal(np.round(values), values):
        raise SceneError(
            f"{path} holds values from {values.min()} to {values.max()}; expected "
            f"whole label codes from 0 (unlabelled) to {MAX_CODE}."
        )
    return values.astype(np.int64)


def _read_raster(path: str, info: SceneInfo) -> tuple[NDArray[Any], ClassTable]:
    scene = open_scene(path)  # the checks of a scene: kind, truncation, wavelengths
    try:
        raster = scene.info
        if raster.bands != 1:
            raise SceneError(f"{path} has {raster.bands} bands; labels have one.")
        values = scene.read((0, raster.rows), (0, raster.cols), np.array([0]))[0]
    finally:
        scene.close()
    check_grid(path, raster, info)
    if not np.isnan(raster.nodata[0]):
        values = np.where(values == raster.nodata[0], 0, values)
    return values, _table_of(raster.path) if raster.driver == "GTiff" else ClassTable()


def _check_size(path: str, shape: tuple[int, ...], scene: SceneInfo) -> None:
    if shape != (scene.rows, scene.cols):
        raise SceneError(
            f"{path} has {shape[0]} x {shape[1]} pixels, the scene {scene.path.name} "
            f"{scene.rows} x {scene.cols}; labels must lie on the scene's grid (rio "
            "warp --like scene.tif puts them there)."
        )


def check_grid(path: str, labels: SceneInfo, scene: SceneInfo) -> None:
    """Refuse a raster of another size than the scene, or in another place.

    Raises:
        SceneError: The grids differ.
    """
    _check_size(path, (labels.rows, labels.cols), scene)
    if labels.transform is None or scene.transform is None:
        return
    if labels.crs and scene.crs and CRS.from_wkt(labels.crs) != CRS.from_wkt(scene.crs):
        raise SceneError(
            f"{path} has another coordinate reference system than {scene.path.name}; "
            "warp it to the scene's grid (rio warp --like scene.tif)."
        )
    pixel = max(abs(v) for v in (*scene.transform[1:3], *scene.transform[4:6]))
    apart = np.abs(np.subtract(labels.transform, scene.transform)) / pixel
    # Steps count once per pixel of the scene: check the far corner, not the step.
    apart[[1, 4]] *= scene.cols
    apart[[2, 5]] *= scene.rows
    if apart.max() > GRID_TOLERANCE * 10:
        raise SceneError(
            f"{path} has the scene's size, but its grid lies elsewhere: transform "
            f"{labels.transform} against {scene.transform}. Expected the scene's grid "
            "(rio warp --like scene.tif puts labels there)."
        )


def _table_of(path: Path) -> ClassTable:
    """Read colour table and class names of a GeoTIFF."""
    import json

    try:
        with (
            rasterio.Env(),
            warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning),
            rasterio.open(path, driver="GTiff") as raster,
        ):
            names: list[str | None] = []
            tag = raster.tags(1).get("CLASS_NAMES")
            if tag:
                parsed = {int(k): str(v) for k, v in json.loads(tag).items()}
                names = [parsed.get(c) for c in range(max(parsed, default=-1) + 1)]
            try:
                colormap = raster.colormap(1)
            except ValueError:  # rasterio's way to say that there is none
                colormap = {}
    except (RasterioError, ValueError, AttributeError):
        return ClassTable()
    return ClassTable.from_raster(names or _category_names(path), colormap)


def _category_names(path: Path) -> list[str | None]:
    """Read GDAL's category names, which live in the side-car ``.aux.xml``."""
    from xml.etree import ElementTree

    side_car = path.with_name(path.name + ".aux.xml")
    if not side_car.is_file():
        return []
    try:
        root = ElementTree.fromstring(side_car.read_text(encoding="utf-8"))
    except (ElementTree.ParseError, UnicodeDecodeError):
        return []
    return [c.text for c in root.findall("./PAMRasterBand/CategoryNames/Category")]
