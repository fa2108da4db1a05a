"""Brings a scene's stored values to the units a model was trained on."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.errors import BandMismatchError
from hsi_runtime.matching.bands import BandMatch
from hsi_runtime.model.model_file import Values
from hsi_runtime.scenes.scene import SceneInfo, usable_units

VALUES_AT_ONCE = 2**20  # in double precision
IN_MEMORY = ("memory", "stream")  # scenes that come from Python
UNKNOWN, REFLECTANCE = "unknown", "reflectance"  # quantities


@dataclass(frozen=True)
class Conversion:
    """From a scene's stored values to a model's, band by band.

    First ``value * gain + offset``, then resampling, then division by the model's
    scale, then what fits the bands to the training scene; a step that changes nothing
    is None.

    Attributes:
        gain: Shape ``(band, 1, 1)``.
        offset: Shape ``(band, 1, 1)``.
        resampling: Weights, shape ``(model band, band)``.
        model_scale: Shape ``(model band, 1, 1)``.
        model_offset: Shape ``(model band, 1, 1)``.
        fit: Factor and summand, each ``(model band, 1, 1)``; see `adapting`.
        warnings: Sentences the user should read.
    """

    gain: NDArray[np.float32] | None = None
    offset: NDArray[np.float32] | None = None
    resampling: NDArray[np.float32] | None = None
    model_scale: NDArray[np.float32] | None = None
    model_offset: NDArray[np.float32] | None = None
    fit: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None
    warnings: tuple[str, ...] = ()

    def apply(self, cube: NDArray[Any]) -> NDArray[np.float32]:
        """Convert a cube ``(band, row, col)`` to float32 in the model's bands."""
        # Fill values may overflow; their pixels do not count.
        with np.errstate(over="ignore", invalid="ignore"):
            return self._converted(cube)

    def _converted(self, cube: NDArray[Any]) -> NDArray[np.float32]:
        # Engines want bands first, whatever the file's order.
        values = cube.astype(np.float32, order="C")
        if self.gain is not None and self.offset is not None:
            values *= self.gain
            values += self.offset
        if self.resampling is not None:
            # Missing values have no weight in a pixel that counts: see valid_pixels.
            values = np.nan_to_num(values, copy=False, posinf=0, neginf=0)
            values = _resampled(values, self.resampling)
        if self.model_scale is not None and self.model_offset is not None:
            values -= self.model_offset
            values /= self.model_scale
        if self.fit is not None:
            gain, offset = self.fit
            values *= gain
            values += offset
        return values


def _resampled(
    values: NDArray[np.float32], weights: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Weigh the bands of a cube; in double precision, some rows at a time.

    A product of matrices rounds by their shapes: in single precision a map would
    depend on the tiles.
    """
    bands, rows, cols = values.shape
    resampled = np.empty((len(weights), rows, cols), np.float32)
    table, step = weights.astype(np.float64), max(VALUES_AT_ONCE // (bands * cols), 1)
    for top in range(0, rows, step):
        part = values[:, top : top + step].astype(np.float64)
        resampled[:, top : top + step] = np.tensordot(table, part, axes=1)
    return resampled


def with_scale(info: SceneInfo, scale: float, values: Values) -> SceneInfo:
    """Take the user's scale in place of what a scene declares.

    Args:
        info: The scene.
        scale: Quantity = stored value * scale, in all bands.
        values: The model's.

    Raises:
        BandMismatchError: The model declares none that it could be compared with.
    """
    if values.scale is None:
        raise BandMismatchError(
            "The scene that the model was trained on declared no scale, so none can be "
            "compared with it. Leave out --scale, or declare the scale and train again."
        )
    scales, zeros = np.full(info.bands, scale), np.zeros(info.bands)
    notes = info.notes
    if info.scale is not None and info.offset is not None:
        same = np.allclose(info.scale, scales, rtol=1e-6, atol=0)
        if not same or info.offset.any():
            note = (
                f"{info.path.name} declares a scale of {info.scale[0]:g} and an offset "
                f"of {info.offset[0]:g} itself; --scale {scale:g} takes their place."
            )
            notes = *notes, note
    return replace(info, scale=scales, offset=zeros, notes=notes)


def conversion(info: SceneInfo, match: BandMatch, values: Values) -> Conversion:
    """Compare the scale and offset of a scene with those of a model.

    Both declared: convert. Different kinds of numbers (whole or decimal): refused,
    because values would be off by an unknown scale. So is a file of whole numbers that
    declares nothing, where the model declares its quantity and scale: they are raw
    counts as likely. Else, where only one declares its scale: taken as they are, with a
    warning.

    Raises:
        BandMismatchError: The units cannot be brought together.
    """
    kinds = {np.dtype(values.dtype).kind == "f", info.dtype.kind == "f"}
    both = (
        f"{info.path.name} stores {info.dtype} "
        f"({_declared(info.scale is not None)}), the model was trained on "
        f"{values.dtype} ({_declared(values.scale is not None)})"
    )
    if info.scale is None or values.scale is None:
        if len(kinds) == 2:
            raise BandMismatchError(
                f"{both}: the values may differ by a scale factor. "
                f"{_remedy(info, values)}{_hint(info, values)}"
            )
        if _may_be_counts(info) and values.scale and values.quantity != UNKNOWN:
            raise BandMismatchError(
                f"{both} of {values.quantity}: the scene may store anything. "
                f"{_remedy(info, values)}{_hint(info, values)}"
            )
        neither = info.scale is None and values.scale is None
        return Conversion(
            resampling=match.resampling,
            warnings=()
            if neither
            else (f"{both}: values are taken as they are.{_hint(info, values)}",),
        )
    assert info.offset is not None
    assert values.offset is not None
    scale, offset = info.scale[match.indices], info.offset[match.indices]
    model_scale, model_offset = np.array(values.scale), np.array(values.offset)
    if match.resampling is not None:
        _check_usable(info, scale, offset)
        return Conversion(
            gain=_column(scale),
            offset=_column(offset),
            resampling=match.resampling,
            model_scale=_column(model_scale),
            model_offset=_column(model_offset),
        )
    if np.allclose(scale, model_scale, rtol=1e-6, atol=0) and np.allclose(
        offset, model_offset, rtol=1e-6, atol=1e-9
    ):
        return Conversion()
    gain, shift = scale / model_scale, (offset - model_offset) / model_scale
    _check_usable(info, gain, shift)
    return Conversion(gain=_column(gain), offset=_column(shift))


def _check_usable(
    info: SceneInfo, gain: NDArray[np.float64], offset: NDArray[np.float64]
) -> None:
    """Refuse a conversion that float32 cannot hold, in any band that is used."""
    if not usable_units(gain, offset).all():
        raise BandMismatchError(
            f"{info.path.name} declares scales and offsets that cannot be converted to "
            "the model's, which are of another size. Correct those of the scene."
        )


def _remedy(info: SceneInfo, values: Values) -> str:
    """Return how to make units comparable."""
    if info.scale is None and values.scale is not None:
        option = "--scale" if info.driver not in IN_MEMORY else "scale="
        return f"Give its scale by {option} (the model's is {values.scale[0]:g})."
    return (
        "Declare scale and offset in both files, and train again with the one of "
        "training."
    )


def _hint(info: SceneInfo, values: Values) -> str:
    """Return what to do about whole numbers that may be raw counts."""
    if info.scale is None and info.dtype.kind != "f" and values.scale is not None:
        return " For a camera's raw counts, give --dark and --white, or --gain."
    return ""


def _may_be_counts(info: SceneInfo) -> bool:
    """Return True if a file of whole numbers does not say what they mean.

    Arrays and streams have no place to say it: whoever hands them over knows.
    """
    is_file = info.driver not in IN_MEMORY
    return is_file and info.scale is None and info.dtype.kind != "f"


def _column(values: NDArray[np.float64]) -> NDArray[np.float32]:
    return values.astype(np.float32)[:, None, None]


def _declared(known: bool) -> str:
    return "scale declared" if known else "no scale declared"
