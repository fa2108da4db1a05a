"""The gate of an export: torch against the file, through the runtime's own code."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hsi_runtime.engines.backend import Backend
from hsi_runtime.errors import VerificationError
from hsi_runtime.model.model_file import PROBABILITIES
from hsi_train.method import BaseMethod

TIE = 1e-5  # two best classes nearer than this may swap by rounding


@dataclass(frozen=True)
class Limits:
    """What an exported file may differ from torch by.

    Attributes:
        max_abs_difference: In probability.
        equal_class_share: At least this share of pixels has the same class.
    """

    max_abs_difference: float
    equal_class_share: float


@dataclass(frozen=True)
class ClassParity:
    """How alike they answer for one class: a share of all pixels hides a rare one.

    Attributes:
        pixels: That are of this class to torch.
        equal_class_share: Share of them that the file gives this class; None for none.
        max_abs_difference: In this class's probability, in any pixel.
    """

    pixels: int
    equal_class_share: float | None
    max_abs_difference: float


@dataclass(frozen=True)
class Parity:
    """How alike torch and the exported file answer.

    Attributes:
        max_abs_difference: In probability, or abundance.
        equal_class_share: Share of pixels of the same class; ties within `TIE` count.
        windows: Compared.
        pixels: Classified in them.
        classes: Class by class.
    """

    max_abs_difference: float
    equal_class_share: float
    windows: int
    pixels: int
    classes: list[ClassParity]


def windows_of(sample: NDArray[Any], receptive_field: int) -> list[NDArray[np.float32]]:
    """Cut windows of several sizes out of a real one, each ``(1, band, row, col)``.

    From a single patch to the whole sample, none of the sizes that were traced.
    """
    cube = sample.astype(np.float32)[None]
    rows, cols = cube.shape[2:]
    r = receptive_field
    sizes = [(r, r), (r, cols), (rows, r), (r + 6, r + 16), (rows, cols)]
    sizes += [(min(r + 33, rows), min(r + 12, cols))]
    fitting = {(min(h, rows), min(w, cols)) for h, w in sizes}
    return [
        np.ascontiguousarray(cube[..., rows - h :, cols - w :])
        for h, w in sorted(fitting)
    ]


@torch.inference_mode()
def reference(
    method: BaseMethod, cube: NDArray[np.float32]
) -> dict[str, NDArray[np.float32]]:
    """Compute the outputs with torch, in fp32 on the CPU."""
    graph = method.inference_graph().eval()
    found = graph(torch.from_numpy(cube))
    return {k: v.numpy() for k, v in zip(method.outputs, found, strict=True)}


def check(
    method: BaseMethod,
    backend: Backend,
    sample: NDArray[Any],
    limits: Limits,
) -> Parity:
    """Compare torch with the file on real windows.

    Args:
        method: In evaluation mode.
        backend: Holds the exported file.
        sample: Real window, stored units, shape ``(band, row, col)``.
        limits: Of what is accepted.

    Raises:
        VerificationError: They differ by more.
    """
    worst = 0.0
    off, wanted_classes, kept = [], [], []  # by window
    windows = windows_of(sample, method.receptive_field)
    for cube in windows:
        expected = reference(method, cube)
        found = backend.predict(cube, method.outputs)
        for name, wanted in expected.items():
            if found[name].shape != wanted.shape:
                raise VerificationError(
                    f"Parity failed: for {cube.shape} the file gives {name} of shape "
                    f"{found[name].shape}, torch {wanted.shape}."
                )
            # np.maximum keeps a NaN, max() may drop it.
            worst = float(np.maximum(worst, np.abs(found[name] - wanted).max()))
        chance, answered = expected[PROBABILITIES], found[PROBABILITIES]
        top = np.sort(chance, axis=1)
        tied = top[:, -1] - top[:, -2] <= TIE
        classes = chance.argmax(axis=1)
        kept.append(((answered.argmax(axis=1) == classes) | tied).ravel())
        wanted_classes.append(classes.ravel())
        off.append(np.abs(answered - chance).max(axis=(0, 2, 3)))  # (class,)
    alike, of_class = np.concatenate(kept), np.concatenate(wanted_classes)
    per_class = [
        _of_class(alike[of_class == k], float(difference))
        for k, difference in enumerate(np.maximum.reduce(off))
    ]
    pixels = alike.size
    result = Parity(worst, float(alike.mean()), len(windows), pixels, per_class)
    if not (
        worst <= limits.max_abs_difference
        and result.equal_class_share >= limits.equal_class_share
    ):
        raise VerificationError(
            f"Parity failed: probabilities differ by up to {worst:.2e} (accepted "
            f"{limits.max_abs_difference:.0e}), {result.equal_class_share:.3%} of "
            f"{pixels} pixels have the same class (accepted "
            f"{limits.equal_class_share:.2%}). No file was written."
        )
    return result


def _of_class(alike: NDArray[np.bool_], difference: float) -> ClassParity:
    share = float(alike.mean()) if alike.size else None
    return ClassParity(alike.size, share, difference)
