"""What the user asks of a scene, checked once for the command line and for Python."""

import math
import operator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from hsi_runtime.camera.opening import open_camera_scene
from hsi_runtime.camera.references import References
from hsi_runtime.errors import ModelFileError, OptionError
from hsi_runtime.follow_options.options import Following
from hsi_runtime.machine import whole_number
from hsi_runtime.model.model_file import ModelDocument
from hsi_runtime.output import provenance
from hsi_runtime.scenes.scene import Scene, usable_units
from hsi_runtime.walk.regions import Bounds
from hsi_runtime.walk.windows import Window

COMPRESSIONS = ("deflate", "zstd", "lzw", "none")
ADAPTATIONS = ("moments",)
MAX_TILE = 65_536  # px: no raster of ours has larger blocks
MAX_BYTES = 2**60


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the user may choose for a scene; ``hsi-run`` and Python take the same.

    Attributes:
        window: Part to classify, in pixels.
        bounds: Part to classify: west, south, east, north in the scene's CRS.
        tile: Side of the squares that are classified at once; None for the default.
        max_memory_bytes: Budget of the whole process, or None.
        reject_below: Smallest probability of a class; None for the model's suggestion.
        confidence: Also write the best probability.
        probabilities: Also write all probabilities.
        abundances: Also write the abundances of a model that unmixes.
        sets: Also write which classes cannot be excluded, at this level: the share of
            pixels for which the right class is among them. The model offers some.
        novelty: Also write how far spectra are from those of training.
        adapt: ``moments`` moves and scales the bands so that the scene's mean and
            deviation are those of the training scene; or None.
        scale: Quantity = stored value * scale, whatever the scene declares, such as 1
            for reflectance in decimal numbers; or None.
        preview: Also write a PNG.
        stac: Also write a STAC item.
        vector: Also write polygons to this GeoPackage, ``.gpkg``.
        min_area_m2: Smallest polygon to keep; in pixels where the scene's CRS is
            geographic or missing.
        compress: Compression of the GeoTIFFs: ``deflate``, ``zstd``, ``lzw`` or
            ``none``.
        overwrite: Replace what is there.
        resume: Go on where an interrupted run stopped.
        dark: Reference of a camera that stores raw counts: lines without light.
        white: Reference of the same camera: lines of a white panel.
        gain: In place of these: one line of factors, for each column and band.
        offset: One line of summands; the value is count * gain + offset.
        frame_counter: Column and band, from 0, of the number that each line holds;
            lines that are missing become nodata.
        follow: Classify the scene while it is written, and how; or None.
        part: Compute only this part: I, from 0, of N. It lies beside the output until
            all parts are joined.
        join: Publish the outputs from parts that are computed.
        report: Also write what each part took to this HTML file; with ``join``, or on
            workers of a scheduler.

    Raises:
        OptionError: A value is of another type or out of range.
    """

    window: Window | None = None
    bounds: Bounds | None = None
    tile: int | None = None
    max_memory_bytes: int | None = None
    reject_below: float | None = 0.0
    confidence: bool = False
    probabilities: bool = False
    abundances: bool = False
    sets: float | None = None
    novelty: bool = False
    adapt: str | None = None
    scale: float | None = None
    preview: bool = False
    stac: bool = False
    vector: Path | None = None
    min_area_m2: float = 0.0
    compress: str = "deflate"
    overwrite: bool = False
    resume: bool = True
    dark: Path | None = None
    white: Path | None = None
    gain: Path | None = None
    offset: Path | None = None
    frame_counter: tuple[int, int] | None = None
    follow: Following | None = None
    part: tuple[int, int] | None = None
    join: bool = False
    report: Path | None = None

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {
            "window": _window(self.window),
            "bounds": _bounds(self.bounds),
            "tile": _whole("tile", self.tile, MAX_TILE),
            "max_memory_bytes": _whole(
                "max_memory_bytes", self.max_memory_bytes, MAX_BYTES
            ),
            "reject_below": _probability("reject_below", self.reject_below),
            "sets": _probability("sets", self.sets),
            "vector": _path(self.vector),
            "dark": _path(self.dark, "dark"),
            "white": _path(self.white, "white"),
            "gain": _path(self.gain, "gain"),
            "offset": _path(self.offset, "offset"),
            "frame_counter": _pair("frame_counter", self.frame_counter),
            "min_area_m2": _number("min_area_m2", self.min_area_m2),
            "scale": None if self.scale is None else _number("scale", self.scale),
            "part": _pair("part", self.part),
            "report": _path(self.report, "report"),
        }
        if self.follow is not None and not isinstance(self.follow, Following):
            raise OptionError(f"{self.follow!r} is not a Following.", "follow")
        if checked["min_area_m2"] < 0:
            raise OptionError(f"{self.min_area_m2} is negative.", "min_area_m2")
        if checked["scale"] is not None:
            _check_scale(checked["scale"])
        if self.compress not in COMPRESSIONS:
            raise OptionError(
                f"{self.compress!r} is not one of {', '.join(COMPRESSIONS)}.",
                "compress",
            )
        if self.adapt not in (None, *ADAPTATIONS):
            raise OptionError(
                f"{self.adapt!r} is not one of {', '.join(ADAPTATIONS)}.", "adapt"
            )
        for field in fields(Options):
            value = getattr(self, field.name)
            if field.type is bool and not isinstance(value, bool | np.bool_):
                raise OptionError(f"{value!r} is neither True nor False.", field.name)
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        self._check_together()

    def _check_together(self) -> None:
        """Refuse options that exclude each other.

        Raises:
            OptionError: Two do.
        """
        problem = self.references.problem()
        if problem is not None:
            raise OptionError(*problem)
        if self.scale is not None and any(self.references):
            raise OptionError(
                "The references of a camera give reflectance or radiance by "
                "themselves; leave out the scale.",
                "scale",
            )
        if self.window is not None and self.bounds is not None:
            raise OptionError("A window and bounds exclude each other.", "bounds")
        if self.part is not None and self.part[0] >= self.part[1]:
            raise OptionError("I/N goes from 0/N to (N-1)/N.", "part")
        if self.join and self.part is not None:
            raise OptionError("A part is computed or all are joined, not both.", "join")
        if self.follow is None:
            return
        for name in ("window", "bounds", "part", "join"):
            if getattr(self, name):
                raise OptionError("A scene that is followed is classified whole.", name)
        if self.adapt is not None:
            raise OptionError(
                "A scene that is followed has no mean before its last line.", "adapt"
            )

    @property
    def engine_may_differ(self) -> bool:
        """Return False if it must be known without a measurement which engine runs.

        Parts must take the same one, lines of a sensor wait for it, and with a limit
        there may be no memory for two.
        """
        given = self.part, self.follow, self.max_memory_bytes
        return given == (None, None, None)

    @property
    def references(self) -> References:
        """The files that calibrate raw counts."""
        return References(self.dark, self.white, self.gain, self.offset)


@dataclass(frozen=True)
class Request(Options):
    """What the user asked of one scene.

    Attributes:
        scene: Input.
        output: Class map; further files are named after it.
    """

    scene: Path
    output: Path

    def threshold(self, document: ModelDocument) -> float:
        """Return the smallest accepted probability.

        Raises:
            ModelFileError: The model shall choose, and suggests none.
        """
        chosen = self.reject_below
        if chosen is None:
            chosen = document.reject_below
        if chosen is None:
            raise ModelFileError(
                "The model suggests no threshold: its validation pixels were too few, "
                "too often right, or too alike in confidence. Give one, --reject P."
            )
        return chosen

    def set_threshold(self, document: ModelDocument) -> float:
        """Return the smallest probability of a class that cannot be excluded.

        Raises:
            ModelFileError: The model does not offer the requested level.
        """
        if self.sets is None:
            return 1.0
        offered = {one.level: one.threshold for one in document.set_levels}
        if not offered:
            raise ModelFileError(
                "The model offers no sets of classes: its validation pixels lack a "
                "class, or lie in too few places or beside training pixels. Train with "
                "labels in more places, or leave out --sets."
            )
        if self.sets not in offered:
            raise ModelFileError(
                f"The model offers no sets of level {self.sets:g}. Give --sets one of "
                f"{', '.join(f'{level:g}' for level in offered)}."
            )
        return offered[self.sets]

    def check_training(self, document: ModelDocument) -> None:
        """Refuse a request for what a model does not know of its training.

        Raises:
            ModelFileError: It does not.
        """
        training = document.training
        if self.adapt is not None and training is None:
            raise ModelFileError(
                "The model does not hold the mean of its training scene: its release "
                "is too old for --adapt. Train it again."
            )
        if self.adapt is not None and document.provenance.from_spectra:
            raise ModelFileError(
                "The model was trained from spectra, which do not tell the mean and "
                "deviation of a scene. Leave out --adapt."
            )
        if self.novelty and (training is None or training.known is None):
            raise ModelFileError(
                "The model cannot tell --novelty: its release is too old, or it had "
                "too few labels. Train it again, with more of them."
            )

    @property
    def tagged(self) -> dict[str, object]:
        """Options that every output depends on, by the key of their tag."""
        return {
            provenance.COUNTER_KEY: self.frame_counter,
            provenance.ADAPT_KEY: self.adapt,
            provenance.SCALE_KEY: self.scale,
        }

    @property
    def region_text(self) -> str:
        """The part of the scene to classify, as text for the output's tags."""
        frames = ""
        if self.frame_counter is not None:  # it adds rows
            frames = " with frames of {},{}".format(*self.frame_counter)
        return self._part_text + frames

    @property
    def _part_text(self) -> str:
        if self.window is not None:
            row, col, rows, cols = self.window
            return f"window {col},{row},{cols},{rows}"
        if self.bounds is not None:
            return f"bbox {','.join(map(repr, self.bounds))}"
        return "whole"

    def open_scene(self) -> Scene:
        """Open the scene as its camera left it.

        Raises:
            SceneError: It cannot be used.
        """
        return open_camera_scene(self.scene, self.references, self.frame_counter)

    def outputs(self) -> list[str]:
        """Name the outputs."""
        requested = {
            "classes": True,
            "confidence": self.confidence,
            "probabilities": self.probabilities,
            "abundances": self.abundances,
            "sets": self.sets is not None,
            "novelty": self.novelty,
            "preview": self.preview,
            "stac": self.stac,
            "vector": self.vector is not None,
        }
        return [name for name, yes in requested.items() if yes]


def _window(value: Any) -> Window | None:
    if value is None:
        return None
    if not isinstance(value, Window):  # the order of a bare tuple is anybody's guess
        raise OptionError(
            f"{value!r} is not a Window; give Window(row=, col=, rows=, cols=) of "
            "hsi_runtime.walk.windows.",
            "window",
        )
    try:
        window = Window(*map(operator.index, value))
    except TypeError as error:
        raise OptionError(
            f"{value!r} holds a number that is not whole.", "window"
        ) from error
    if window.row < 0 or window.col < 0 or window.rows < 1 or window.cols < 1:
        text = f"{window.col},{window.row},{window.cols},{window.rows}"
        raise OptionError(f"{text}: a corner is negative or a side empty.", "window")
    return window


def _bounds(value: Any) -> Bounds | None:
    if value is None:
        return None
    try:
        west, south, east, north = (float(part) for part in value)
    except (TypeError, ValueError, OverflowError) as error:
        raise OptionError(f"{value!r} is not W,S,E,N, four numbers.", "bounds") from (
            error
        )
    text = ",".join(f"{part:g}" for part in (west, south, east, north))
    if not all(map(math.isfinite, (west, south, east, north))):
        raise OptionError(f"{text} holds a number that is not finite.", "bounds")
    if not (west < east and south < north):
        raise OptionError(f"{text} is empty: W < E and S < N are needed.", "bounds")
    return west, south, east, north


def _whole(option: str, value: Any, most: int) -> int | None:
    return None if value is None else whole_number(option, value, most)


def _number(option: str, value: Any) -> float:
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise OptionError(f"{value!r} is not a number.", option) from error
    if not math.isfinite(number):
        raise OptionError(f"{number} is not a finite number.", option)
    return number


def _check_scale(scale: float) -> None:
    if scale <= 0:
        raise OptionError(f"{scale} is not positive.", "scale")
    if not usable_units(np.array([scale]), np.zeros(1)).all():
        raise OptionError(f"{scale} does not fit single precision.", "scale")


def _probability(option: str, value: Any) -> float | None:
    if value is None:
        return None
    try:
        probability = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise OptionError(f"{value!r} is not a probability.", option) from error
    if not 0 <= probability <= 1:  # nor not-a-number
        raise OptionError(f"{value!r} is not in 0..1.", option)
    return probability


def _pair(option: str, value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    try:
        first, second = (operator.index(part) for part in value)
    except (TypeError, ValueError) as error:
        raise OptionError(f"{value!r} is not two whole numbers.", option) from error
    if min(first, second) < 0:
        raise OptionError(f"{first},{second} holds a negative number.", option)
    return first, second


def _path(value: Any, option: str = "vector") -> Path | None:
    if value is None:
        return None
    try:
        return Path(value)
    except TypeError as error:
        raise OptionError(f"{value!r} is not a path.", option) from error
