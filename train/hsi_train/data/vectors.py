"""Rasterises polygons and points by pixel centre, on the grid of any scene."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyogrio
import rasterio.features
import rasterio.warp
import shapely
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.transform import Affine

from hsi_runtime.errors import SceneError
from hsi_runtime.scenes.scene import SceneInfo
from hsi_train.data.classes import MAX_CODE, ClassTable, Codes


class VectorLabels:
    """The features of one vector file, classed by one of its fields."""

    def __init__(
        self,
        path: str,
        label_field: str | None,
        named: Mapping[int, str] | None = None,
    ) -> None:
        self._path = path
        try:
            layer = _layer(path)
            meta, _, geometry, columns = pyogrio.raw.read(path, layer=layer)
        except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
            raise SceneError(f"{path} is not a readable vector file: {error}") from None
        fields = [str(f) for f in meta["fields"]]
        name = _field(path, fields, label_field)
        self._crs = meta["crs"]
        if len(geometry) == 0:
            raise SceneError(f"{path} has no feature.")
        self._codes, self._table, empty, self._unlisted = _codes_of(
            path, name, columns[fields.index(name)], named or {}
        )
        self._geometry = shapely.from_wkb(geometry)
        self._used = np.zeros(len(self._geometry), dtype=bool)
        self._contested = 0
        self._empty = empty
        kinds = set(shapely.get_type_id(self._geometry).tolist())
        if not kinds <= {-1, 0, 3, 4, 6}:
            raise SceneError(f"{path} holds lines; labels are polygons or points.")

    def codes(self, number: int, info: SceneInfo) -> Codes:
        if info.transform is None:
            raise SceneError(
                f"{info.path.name} has no georeference, so {self._path} cannot be "
                "laid over it; give a label raster instead."
            )
        shapes = self._in_crs_of(info)
        west, dx_col, dx_row, north, dy_col, dy_row = info.transform
        outline = shapely.Polygon(
            [
                (
                    west + col * dx_col + row * dx_row,
                    north + col * dy_col + row * dy_row,
                )
                for col, row in (
                    (0, 0), (info.cols, 0), (info.cols, info.rows), (0, info.rows),
                )
            ]
        )  # fmt: skip
        inside = shapely.intersects(shapes, outline) & (self._codes > 0)
        self._used |= inside
        out: Codes = np.zeros((info.rows, info.cols), dtype=np.int64)
        if not inside.any():
            return out
        pairs = sorted(
            zip(shapes[inside], self._codes[inside].tolist(), strict=True),
            key=lambda pair: pair[1],
        )
        # What is drawn last stays: the lowest and the highest code that claim a pixel.
        lowest, highest = (
            rasterio.features.rasterize(
                order,
                (info.rows, info.cols),
                transform=Affine.from_gdal(*info.transform),
                dtype="int32",
            )
            for order in (pairs[::-1], pairs)
        )
        # The order of features is no reason to prefer a class: drop what is contested.
        self._contested += int((lowest != highest).sum())
        out[...] = np.where(lowest == highest, highest, 0)
        return out

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
            return np.asarray(self._geometry)

        def project(points: NDArray[np.float64]) -> NDArray[np.float64]:
            x, y = rasterio.warp.transform(source, target, points[:, 0], points[:, 1])
            return np.column_stack([x, y])

        return np.asarray(shapely.transform(self._geometry, project))


def _layer(path: str) -> str:
    """Name the one layer with geometry; tables beside it, such as styles, are none."""
    layers = [str(name) for name, kind in pyogrio.list_layers(path) if kind is not None]
    if len(layers) != 1:
        raise SceneError(
            f"{path} has {len(layers)} layers with geometry"
            f"{': ' if layers else ''}{', '.join(layers)}; expected one. Save "
            "the layer with the labels as a file of its own."
        )
    return layers[0]


def _field(path: str, fields: list[str], requested: str | None) -> str:
    if requested is None and len(fields) == 1:
        return fields[0]
    if requested not in fields:
        reason = "none was named" if requested is None else f"there is no {requested!r}"
        raise SceneError(
            f"{path}: --label-field must name the field with the class; {reason}. "
            f"Fields: {', '.join(fields) or 'none'}."
        )
    return requested


def _codes_of(
    path: str, name: str, values: NDArray[Any], named: Mapping[int, str]
) -> tuple[Codes, ClassTable, int, list[str]]:
    """Number the classes: whole numbers stay, texts take the codes of the class file.

    Texts that it does not name are counted on from its highest code.

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
        values = filled.astype(np.int64)
    if values.dtype.kind in "iu":
        codes = values.astype(np.int64)
        _check_range(path, name, codes)
        return codes, ClassTable(), int((codes == 0).sum()), []
    texts = ["" if v is None else str(v).strip() for v in values]
    number = {text: code for code, text in named.items()}
    added = sorted(set(texts) - {""} - number.keys())
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
