"""Brings a scene's stored values to the units a model was trained on."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.errors import BandMismatchError
from hsi_runtime.model_file import Values
from hsi_runtime.scene import SceneInfo


@dataclass(frozen=True)
class Conversion:
    """``model value = scene value * gain + offset``, per band; None changes nothing.

    Attributes:
        gain: Shape ``(band, 1, 1)``.
        offset: Shape ``(band, 1, 1)``.
        warnings: Sentences the user should read.
    """

    gain: NDArray[np.float32] | None
    offset: NDArray[np.float32] | None
    warnings: tuple[str, ...] = ()

    def apply(self, cube: NDArray[Any]) -> NDArray[np.float32]:
        """Convert a cube ``(band, row, col)`` to float32 in the model's units."""
        values = cube.astype(np.float32)
        if self.gain is not None and self.offset is not None:
            values *= self.gain
            values += self.offset
        return values


def conversion(
    info: SceneInfo, indices: NDArray[np.intp], values: Values
) -> Conversion:
    """Compare the scale and offset of a scene with those of a model.

    Both declared: convert. One declared, same kind of numbers (whole or decimal): taken
    as they are, with a warning. One declared, different kinds: refused, because values
    would be off by the scale.

    Raises:
        BandMismatchError: The units cannot be brought together.
    """
    kinds = {np.dtype(values.dtype).kind == "f", info.dtype.kind == "f"}
    said = (
        f"{info.path.name} stores {info.dtype} "
        f"({_declared(info.scale is not None)}), the model was trained on "
        f"{values.dtype} ({_declared(values.scale is not None)})"
    )
    if info.scale is None or values.scale is None:
        if len(kinds) == 2:
            raise BandMismatchError(
                f"{said}: the values may differ by a scale factor. Declare scale and "
                "offset in both files, or convert the scene."
            )
        if info.scale is None and values.scale is None:
            return Conversion(None, None)
        return Conversion(None, None, (f"{said}: values are taken as they are.",))
    assert info.offset is not None
    assert values.offset is not None
    scale, offset = info.scale[indices], info.offset[indices]
    model_scale, model_offset = np.array(values.scale), np.array(values.offset)
    if np.allclose(scale, model_scale, rtol=1e-6, atol=0) and np.allclose(
        offset, model_offset, rtol=1e-6, atol=0
    ):
        return Conversion(None, None)
    gain = scale / model_scale
    shift = (offset - model_offset) / model_scale
    return Conversion(
        gain.astype(np.float32)[:, None, None], shift.astype(np.float32)[:, None, None]
    )


def _declared(known: bool) -> str:
    return "scale declared" if known else "no scale declared"
