"""Rasterises polygons and points by pixel centre, on the grid of any scene."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import rasterio.features
import shapely
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.transform import Affine

from hsi_runtime.errors import SceneError
from hsi_runtime.scenes.scene import SceneInfo
from hsi_train.data.classes import MAX_CODE, ClassTable, Codes, composed
from hsi_train.data.formats.vector_files import read_features
from hsi_train.data.projection import project
from hsi_train.data.rasters import from_ground

POINT, POLYGON, MULTI_POINT, MULTI_POLYGON, COLLECTION = 0, 3, 4, 6, 7  # of GEOS
NO_GEOMETRY = -1


class VectorLabels:
    """The features of one vector file, classed by one of its fields."""

    def __init__(
        self,
        path: str,
        label_field: str | None,
        named: Mapping[int, str] | None = None,
    ) -> None:
        self._path = path
        features = read_features(path)
        name = field_of(path, list(features.columns), label_field)
        self._crs = features.crs
        if len(features.geometry) == 0:
            raise SceneError(f"{path} has no feature.")
        self._codes, self._table, self._empty, self._unlisted = codes_of(
            path, name, features.columns[name], named or {}
        )
        try:
            with np.errstate(invalid="ignore"):  # coordinates that are no numbers
                self._geometry = shapely.from_wkb(features.geometry)
        except shapely.errors.GEOSException as error:
            raise SceneError(f"{path} holds a damaged geometry: {error}.") from None
        _check_kinds(path, self._geometry)
        self._used = np.zeros(len(self._geometry), dtype=bool)
        self._marked = np.zeros(len(self._geometry), dtype=bool)
        self._contested = 0

    def codes(self, number: int, info: SceneInfo) -> Codes:
        return from_ground(self._drawn(info.ground), info)

    def _drawn(self, info: SceneInfo) -> Codes:
        """Draw the shapes on a scene's grid."""
        if info.transform is None:
            raise SceneError(
                f"{info.path.name} has no georeference, so {self._path} cannot be "
                "laid over it; give a label raster instead."
            )
        shapes = self._in_crs_of(info)
        grid = Affine.from_gdal(*info.transform)
        corners = (0, 0), (info.cols, 0), (info.cols, info.rows), (0, info.rows)
        outline = shapely.Polygon([_moved(grid, *corner) for corner in corners])
        inside = shapely.intersects(shapes, outline) & (self._codes > 0)
        self._used |= inside
        out: Codes = np.zeros((info.rows, info.cols), dtype=np.int64)
        if not inside.any():
            return out
        chosen = np.flatnonzero(inside)
        chosen = chosen[np.argsort(self._codes[chosen], kind="stable")]
        # What is drawn last stays: the lowest and the highest code that claim a pixel.
        first, last = (
            rasterio.features.rasterize(
                [(shapes[k], int(k) + 1) for k in order],
                (info.rows, info.cols),
                transform=grid,
                dtype="int32",
            )
            for order in (chosen[::-1], chosen)
        )
        self._mark(chosen, shapes, grid, first, last)
        code_of = np.concatenate([[0], self._codes])
        lowest, highest = code_of[first], code_of[last]
        # The order of features is no reason to prefer a class: drop what is contested.
        self._contested += int((lowest != highest).sum())
        out[...] = np.where(lowest == highest, highest, 0)
        return out

    def _mark(
        self,
        chosen: NDArray[np.intp],
        shapes: NDArray[Any],
        grid: Affine,
        first: NDArray[np.int32],
        last: NDArray[np.int32],
    ) -> None:
        """Remember which features hold the centre of a pixel.

        Args:
            chosen: Features that touch the scene.
            shapes: All features, in the coordinates of the scene.
            grid: Transform of the scene.
            first: Number of a feature, from 1, in each pixel, shape ``(row, col)``.
            last: As ``first``, where features overlap the number of another one.
        """
        seen = np.zeros(len(shapes) + 1, dtype=bool)
        seen[first.ravel()] = seen[last.ravel()] = True
        self._marked |= seen[1:]
        for k in chosen[~self._marked[chosen]]:  # small, or hidden by others
            self._marked[k] = _holds_a_centre(shapes[k], grid, first.shape)

    def class_table(self) -> ClassTable:
        return self._table

    def warnings(self) -> list[str]:
        messages = []
        outside = int(((self._codes > 0) & ~self._used).sum())
        if outside:
            messages.append(
                f"{outside} of {len(self._codes)} features of {self._path} lie outside "
                "every scene."
            )
        if (lost := self._used & ~self._marked).any():
            counts = Counter(self._codes[lost].tolist())
            listed = ", ".join(
                f"{self._table.names.get(code, code)} ({n})"
                for code, n in sorted(counts.items())
            )
            messages.append(
                f"{int(lost.sum())} features of {self._path} hold no pixel centre and "
                f"label nothing: {listed}. Draw them larger, or give points."
            )
        if self._unlisted:
            messages.append(
                "Classes that the class file does not name get codes of their own: "
                f"{', '.join(self._unlisted)}."
            )
        if self._empty:
            messages.append(f"{self._empty} features have no class and are not used.")
        if self._contested:
            messages.append(
                f"{self._contested} pixels are claimed by two classes and not used."
            )
        return messages

    def _in_crs_of(self, info: SceneInfo) -> NDArray[Any]:
        if self._crs is None or info.crs is None:
            raise SceneError(
                f"{self._path if self._crs is None else info.path.name} has no "
                "coordinate reference system; set it, so that both can be overlaid."
            )
        try:
            source, target = CRS.from_user_input(self._crs), CRS.from_wkt(info.crs)
        except CRSError as error:
            raise SceneError(f"{self._path}: {error}") from error
        if source == target:
            return _placed(self._geometry)

        def moved(points: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.column_stack(project(source, target, points[:, 0], points[:, 1]))

        shapes = _placed(shapely.transform(self._geometry, moved))
        given = ~(shapely.is_missing(self._geometry) | shapely.is_empty(self._geometry))
        if given.any() and shapely.is_missing(shapes[given]).all():
            raise SceneError(
                f"{self._path}: no coordinate lies in the area of {info.path.name}'s "
                f"reference system. {_unit_hint(source, self._geometry)}"
            )
        return shapes


def _placed(shapes: NDArray[Any]) -> NDArray[Any]:
    """Return shapes without those that have a coordinate which is not finite."""
    points, owner = shapely.get_coordinates(shapes, return_index=True)
    placed = np.array(shapes, dtype=object)
    placed[owner[~np.isfinite(points).all(axis=1)]] = None
    return placed


def _unit_hint(system: CRS, shapes: NDArray[Any]) -> str:
    if system.is_geographic and np.nanmax(np.abs(shapely.bounds(shapes))) > 360:
        return (
            "Its coordinates are not degrees, which its reference system says; GeoJSON "
            "always holds degrees. Save the layer as a GeoPackage in its own system."
        )
    return "Check the reference system of the layer in QGIS."


def _moved(grid: Affine, col: float, row: float) -> tuple[float, float]:
    return grid.a * col + grid.b * row + grid.c, grid.d * col + grid.e * row + grid.f


def _holds_a_centre(shape: Any, grid: Affine, size: tuple[int, ...]) -> bool:
    """Return True if a shape, drawn alone, takes a pixel of the grid."""
    west, south, east, north = shape.bounds
    places = [_moved(~grid, x, y) for x in (west, east) for y in (south, north)]
    cols, rows = np.array(places).T
    left, top = max(int(np.floor(cols.min())), 0), max(int(np.floor(rows.min())), 0)
    right = min(int(np.ceil(cols.max())) + 1, size[1])
    bottom = min(int(np.ceil(rows.max())) + 1, size[0])
    if right <= left or bottom <= top:
        return False
    x, y = _moved(grid, left, top)
    part = Affine(grid.a, grid.b, x, grid.d, grid.e, y)
    drawn = rasterio.features.rasterize(
        [shape], (bottom - top, right - left), transform=part, dtype="uint8"
    )
    return bool(drawn.any())


def _check_kinds(path: str, shapes: NDArray[Any]) -> None:
    """Refuse lines, in collections of geometries too."""
    kinds = set(shapely.get_type_id(shapes).tolist())
    nested = shapes[shapely.get_type_id(shapes) == COLLECTION]
    while len(nested):
        nested = shapely.get_parts(nested)
        kinds |= set(shapely.get_type_id(nested).tolist())
        nested = nested[shapely.get_type_id(nested) == COLLECTION]
    known = {NO_GEOMETRY, POINT, POLYGON, MULTI_POINT, MULTI_POLYGON, COLLECTION}
    if not kinds <= known:
        raise SceneError(f"{path} holds lines; labels are polygons or points.")


def field_of(path: str, fields: list[str], requested: str | None) -> str:
    """Choose the field that holds the class: the requested one, or the only one.

    Raises:
        SceneError: There is no such field, or none was named among several.
    """
    if requested is None and len(fields) == 1:
        return fields[0]
    if requested not in fields:
        reason = "none was named" if requested is None else f"there is no {requested!r}"
        raise SceneError(
            f"{path}: --label-field must name the field with the class; {reason}. "
            f"Fields: {', '.join(fields) or 'none'}."
        )
    return requested


def codes_of(
    path: str, name: str, values: NDArray[Any], named: Mapping[int, str]
) -> tuple[Codes, ClassTable, int, list[str]]:
    """Number the classes: whole numbers stay, texts take the codes of the class file.

    Whole numbers stored as text stay, too, where the class file names none of them.
    Other texts that it does not name are counted on from its highest code.

    Args:
        path: The file, for messages.
        name: The field.
        values: Values of the field, one for each feature.
        named: Class names by code, from the class file.

    Returns:
        A code for each feature, the names by code, how many features have no class,
        and the texts that the class file lacks, if there is one.
    """
    if values.dtype.kind == "f":  # a whole-number field with empty values
        filled = np.where(np.isfinite(values), values, 0)
        if not np.array_equal(filled, np.round(filled)):
            raise SceneError(
                f"{path}: {name} holds decimal numbers; a class is a whole number or "
                "text."
            )
        values = np.clip(filled, -(2.0**62), 2.0**62).astype(np.int64)
    if values.dtype.kind in "iu":
        codes = values.astype(np.int64)
        _check_range(path, name, codes)
        return codes, ClassTable(), int((codes == 0).sum()), []
    texts = ["" if v is None else composed(str(v)) for v in values]
    given = set(texts) - {""}
    whole = bool(given) and all(re.fullmatch(r"[0-9]{1,9}", text) for text in given)
    if whole and not given & set(named.values()):
        codes = np.array([int(text or 0) for text in texts], dtype=np.int64)
        _check_range(path, name, codes)
        return codes, ClassTable(), int((codes == 0).sum()), []
    number = {text: code for code, text in named.items()}
    added = sorted(given - number.keys())
    number |= {t: c for c, t in enumerate(added, start=max([0, *named]) + 1)}
    codes = np.array([number.get(t, 0) for t in texts], dtype=np.int64)
    _check_range(path, name, codes)
    table = ClassTable({code: text for text, code in number.items()})
    unlisted = [f"{text} ({number[text]})" for text in added] if named else []
    return codes, table, texts.count(""), unlisted


def _check_range(path: str, name: str, codes: Codes) -> None:
    if codes.min() < 0 or codes.max() > MAX_CODE:
        raise SceneError(
            f"{path}: {name} runs from {codes.min()} to {codes.max()}; label "
            f"codes go from 0 (unlabelled) to {MAX_CODE}."
        )
