"""Reads labels: rasters on the scene's grid, MATLAB arrays, polygons and points."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS

from hsi_runtime.errors import SceneError
from hsi_runtime.files import local_file
from hsi_runtime.scenes.opening import open_raster
from hsi_runtime.scenes.scene import DTYPES, SceneInfo
from hsi_train.data import matlab
from hsi_train.data.classes import MAX_CODE, ClassTable, Codes
from hsi_train.data.formats.raster_classes import classes_of
from hsi_train.data.rasters import from_ground

VECTOR_SUFFIXES = (".gpkg", ".geojson", ".json", ".shp", ".fgb")
LABEL_DTYPES = (*DTYPES, "int64", "uint64")  # NumPy's own integers, too
UNDECLARED = 255  # what many programs write where a byte raster has no label
AS_GEOPACKAGE = "save it as a GeoPackage (QGIS: Export > Save Features As)"
# Files that are often given as labels and are not read, and what to do with them.
REMEDIES = {
    ".npy": "a NumPy array; save it as a GeoTIFF on the scene's grid, or as .mat",
    ".npz": "a NumPy archive; save the array as a GeoTIFF on the scene's grid",
    ".csv": "a table; load its points in QGIS (Add Delimited Text Layer), then save "
    "them as a GeoPackage",
    ".xlsx": "a table; save it as .csv, load its points in QGIS (Add Delimited Text "
    "Layer), then save them as a GeoPackage",
    ".zip": "an archive; unpack it, and name the label file in it",
    ".dbf": "part of a Shapefile; name its .shp",
    ".shx": "part of a Shapefile; name its .shp",
    ".prj": "part of a Shapefile; name its .shp",
}
REMEDIES |= dict.fromkeys(
    (".kml", ".kmz", ".gml", ".gpx", ".dxf", ".tab", ".mif", ".parquet", ".gdb"),
    f"a vector format that is not read; {AS_GEOPACKAGE}",
)
REMEDIES[".txt"] = REMEDIES[".csv"]
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
    for path in paths:
        if remedy := REMEDIES.get(Path(path).suffix.lower()):
            raise SceneError(f"Labels {path}: this is {remedy}.")
    vectors = [p for p in paths if _is_vector(p)]
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
    return RasterLabels(paths, named)


def are_vectors(paths: Sequence[str]) -> bool:
    """Return True where one of the label files holds polygons or points."""
    return any(_is_vector(path) for path in paths)


def _is_vector(path: str) -> bool:
    if path.lower().endswith(VECTOR_SUFFIXES):
        return True
    if matlab.is_matlab(path) or not Path(path).is_file():
        return False
    from hsi_train.data.formats import vector_files

    return vector_files.kind_of(Path(path)) is not None


class RasterLabels:
    """Label rasters and MATLAB label arrays on the grids of their scenes."""

    def __init__(
        self, paths: Sequence[str], named: Mapping[int, str] | None = None
    ) -> None:
        self._paths = paths
        self._named = named or {}
        self._table = ClassTable()
        self._messages: list[str] = []

    def codes(self, number: int, info: SceneInfo) -> Codes:
        path = self._paths[number]
        values, table = read_codes(path, info)
        table = table.without(self._named)
        self._table = self._table.joined(table, path)
        if UNDECLARED not in (self._named.keys() | table.names.keys()):
            self._messages += _undeclared(path, values)
        return values

    def class_table(self) -> ClassTable:
        return self._table

    def warnings(self) -> list[str]:
        return self._messages


def _undeclared(path: str, codes: Codes) -> list[str]:
    """Warn where the largest code looks like a nodata value that is not declared."""
    counts = np.bincount(codes.ravel(), minlength=UNDECLARED + 1)
    others = np.flatnonzero(counts[:UNDECLARED])
    alone = len(counts) == UNDECLARED + 1 and others.max(initial=0) < UNDECLARED - 1
    if not counts[UNDECLARED] or not alone:
        return []
    return [
        f"{path}: {counts[UNDECLARED]} pixels have code {UNDECLARED}, which is not "
        "declared as nodata, so it is a class. If it means no label, declare it (rio "
        f"edit-info --nodata {UNDECLARED}) or set data.exclude = [{UNDECLARED}]."
    ]


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
        train, test = self._train.class_table(), self._test.class_table()
        return test.joined(train, "The map of training labels")

    def warnings(self) -> list[str]:
        return self._train.warnings() + self._test.warnings()


def read_codes(path: str, info: SceneInfo) -> tuple[Codes, ClassTable]:
    """Read a raster of whole numbers that lies on a scene's grid, or on its ground's.

    Raises:
        SceneError: Another grid, another type, or codes outside 0..65534.
    """
    table, grid = ClassTable(), info.ground
    if matlab.is_matlab(path):
        values = matlab.read_array(path, 2)
        _check_size(path, values.shape, grid)
    else:
        values, table = _read_raster(path, grid)
    return from_ground(whole_codes(path, values), info), table


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
    inside = values.min() >= 0 and float(values.max()) <= MAX_CODE
    if not inside or not np.array_equal(np.round(values), values):
        raise SceneError(
            f"{path} holds values from {values.min()} to {values.max()}; expected "
            f"whole label codes from 0 (unlabelled) to {MAX_CODE}."
        )
    return values.astype(np.int64)


def _read_raster(path: str, info: SceneInfo) -> tuple[NDArray[Any], ClassTable]:
    # The checks of a scene: kind, truncation, mask.
    scene = open_raster(path, LABEL_DTYPES)
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
    return values, classes_of(raster)


def _check_size(path: str, shape: tuple[int, ...], scene: SceneInfo) -> None:
    if shape == (scene.cols, scene.rows) and shape[0] != shape[1]:
        raise SceneError(
            f"{path} has {shape[0]} x {shape[1]} pixels, the scene {scene.path.name} "
            f"{scene.rows} x {scene.cols}: rows and columns are exchanged. Transpose "
            "the labels."
        )
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
