"""The rasters that are written for a scene: their names, values and colours."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.model.model_file import ABUNDANCES, PROBABILITIES, ModelDocument
from hsi_runtime.model.plain_text import plain
from hsi_runtime.model.training import NOVELTY

LAYERS = ("classes", "confidence", "probabilities", "abundances", "sets", NOVELTY)
UNCLASSIFIED = 0
PROBABILITY_STEPS = 200  # probabilities are stored in steps of 1/200
PROBABILITY_NODATA = 255
ABUNDANCE_STEPS = 10_000  # the convention of reflectance products
ABUNDANCE_NODATA = 65535
SET_NODATA = 255


def rgb(color: str) -> tuple[int, int, int]:
    """Return red, green and blue, 0 to 255, of a colour such as ``#3388aa``."""
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


@dataclass(frozen=True)
class Layer:
    """One output raster.

    Attributes:
        name: One of `LAYERS`.
        source: Output of the model that it shows, or `NOVELTY`.
        dtype: Type of its values.
        nodata: Value of pixels without data.
        bands: Description of each band.
        scale: Meaning of a step, or None.
        names: Category by value, or None.
        colors: ``#rrggbb`` by value, or None.
        resampling: Resampling of the overviews.
        least: Probability from which a class belongs to a pixel's set, or None.
    """

    name: str
    source: str
    dtype: np.dtype[Any]
    nodata: int
    bands: list[str]
    scale: float | None = None
    names: dict[int, str] | None = None
    colors: dict[int, str] | None = None
    resampling: str = "AVERAGE"
    least: float | None = None


def map_dtype(document: ModelDocument) -> np.dtype[Any]:
    """Return the type of a class map: uint8 unless a code exceeds 254."""
    top = max(c.code for c in document.classes)
    return np.dtype(np.uint8 if top <= 254 else np.uint16)


def layers(
    document: ModelDocument, requested: Sequence[str], least: float | None = None
) -> list[Layer]:
    """Describe the requested rasters.

    Args:
        document: Document of the model.
        requested: Names of the rasters.
        least: Probability from which a class belongs to a pixel's set; needed where
            sets are requested.
    """
    assert least is not None or "sets" not in requested
    dtype = map_dtype(document)
    nodata = int(np.iinfo(dtype).max)
    names = {UNCLASSIFIED: "unclassified", nodata: "nodata"}
    colors = {UNCLASSIFIED: "#000000", nodata: "#ffffff"}
    names |= {c.code: plain(c.name) for c in document.classes}
    colors |= {c.code: c.color for c in document.classes}
    each = [plain(c.name) for c in document.classes]
    shares: dict[str, Any] = {
        "source": PROBABILITIES,
        "dtype": np.dtype(np.uint8),
        "nodata": PROBABILITY_NODATA,
        "scale": 1 / PROBABILITY_STEPS,
    }
    every = [
        Layer(
            name="classes",
            source=PROBABILITIES,
            dtype=dtype,
            nodata=nodata,
            bands=["class"],
            names=names,
            colors=colors,
            resampling="MODE",
        ),
        Layer(name="confidence", bands=["probability of the class"], **shares),
        Layer(name="probabilities", bands=each, **shares),
        Layer(
            name="abundances",
            source=ABUNDANCES,
            dtype=np.dtype(np.uint16),
            nodata=ABUNDANCE_NODATA,
            bands=each,
            scale=1 / ABUNDANCE_STEPS,
        ),
        Layer(
            name="sets",
            source=PROBABILITIES,
            dtype=np.dtype(np.uint8),
            nodata=SET_NODATA,
            bands=each,
            resampling="MODE",
            least=least,
        ),
        Layer(
            name=NOVELTY,
            bands=["share of training pixels that are nearer"],
            **shares | {"source": NOVELTY},
        ),
    ]
    return [layer for layer in every if layer.name in requested]


@dataclass
class Counts:
    """Pixels of a map, or of a piece of one.

    Attributes:
        of_class: Pixels of each class, by class index.
        unclassified: Pixels with data that were rejected.
        nodata: Pixels without data, or without a finite score.
        broken: Those of ``nodata`` that had data but no finite score.
    """

    of_class: list[int]
    unclassified: int = 0
    nodata: int = 0
    broken: int = 0

    def add(self, other: "Counts") -> None:
        """Add the pixels of another piece."""
        pairs = zip(self.of_class, other.of_class, strict=True)
        self.of_class = [a + b for a, b in pairs]
        self.unclassified += other.unclassified
        self.nodata += other.nodata
        self.broken += other.broken


class Canvas:
    """The output values of one piece of the scene, in memory."""

    def __init__(
        self, layers: Sequence[Layer], codes: Sequence[int], rows: int, cols: int
    ) -> None:
        """Start with nodata everywhere.

        Args:
            layers: Rasters to fill.
            codes: Label code of each class index.
            rows: Height of the piece.
            cols: Width of the piece.
        """
        self._layers = {layer.name: layer for layer in layers}
        self._codes = np.array(codes)
        self._broken = 0
        self.values = {
            layer.name: np.full(
                (len(layer.bands), rows, cols), layer.nodata, dtype=layer.dtype
            )
            for layer in layers
        }

    def paint(
        self,
        row: int,
        col: int,
        outputs: dict[str, NDArray[np.float32]],
        valid: NDArray[np.bool_],
        reject_below: float,
    ) -> None:
        """Write a square of the model's outputs at its place.

        Args:
            row: First row within the piece.
            col: First column within the piece.
            outputs: Each output by name, shape ``(class, row, col)``.
            valid: Pixels with data, shape ``(row, col)``.
            reject_below: Pixels whose best probability is lower stay unclassified.
        """
        finite = np.all([np.isfinite(v).all(axis=0) for v in outputs.values()], axis=0)
        self._broken += int((valid & ~finite).sum())
        valid = valid & finite
        shares = outputs[PROBABILITIES]
        best = shares.max(axis=0)
        place = np.s_[:, row : row + valid.shape[0], col : col + valid.shape[1]]
        for name, layer in self._layers.items():
            target = self.values[name][place]
            if layer.least is not None:
                inside = (shares >= layer.least) | (shares == best)
                target[:, valid] = inside[:, valid]
            elif layer.scale is None:
                codes = self._codes.astype(layer.dtype)[shares.argmax(axis=0)]
                codes[best < reject_below] = UNCLASSIFIED
                target[0][valid] = codes[valid]
            else:
                source = best[None] if name == "confidence" else outputs[layer.source]
                steps = np.rint(source[:, valid] / layer.scale)
                target[:, valid] = steps.astype(layer.dtype)

    def counts(self) -> Counts:
        """Count the pixels of the class map."""
        layer = self._layers["classes"]
        pixels = np.bincount(self.values["classes"].ravel(), minlength=layer.nodata + 1)
        return Counts(
            [int(pixels[code]) for code in self._codes],
            unclassified=int(pixels[UNCLASSIFIED]),
            nodata=int(pixels[layer.nodata]),
            broken=self._broken,
        )
