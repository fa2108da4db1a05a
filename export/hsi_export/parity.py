"""The gate of an export: compares torch with the file, through the runtime's code."""

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
    """Largest accepted differences between an exported file and torch.

    Attributes:
        max_abs_difference: Largest difference in probability.
        equal_class_share: Smallest share of pixels that have the same class.
    """

    max_abs_difference: float
    equal_class_share: float


@dataclass(frozen=True)
class ClassParity:
    """Agreement on one class: a share of all pixels would hide a rare class.

    Attributes:
        pixels: Pixels that torch gives this class.
        equal_class_share: Share of them to which the file gives this class; None
            without such pixels.
        max_abs_difference: Largest difference in the probability of this class.
    """

    pixels: int
    equal_class_share: float | None
    max_abs_difference: float


@dataclass(frozen=True)
class Parity:
    """Agreement of torch and the exported file.

    Attributes:
        max_abs_difference: Largest difference in probability, or abundance.
        equal_class_share: Share of pixels of the same class; ties within `TIE` count.
        windows: Number of windows compared.
        pixels: Number of pixels classified in them.
        classes: Agreement on each class.
    """

    max_abs_difference: float
    equal_class_share: float
    windows: int
    pixels: int
    classes: list[ClassParity]


def windows_of(sample: NDArray[Any], receptive_field: int) -> list[NDArray[np.float32]]:
    """Cut windows of several sizes out of a real one, each ``(1, band, row, col)``.

    The sizes range from a single patch to the whole sample; none was traced.
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
    outputs = graph(torch.from_numpy(cube))
    return {k: v.numpy() for k, v in zip(method.outputs, outputs, strict=True)}


def check(
    method: BaseMethod,
    backend: Backend,
    sample: NDArray[Any],
    limits: Limits,
) -> Parity:
    """Compare torch with the file on real windows.

    Args:
        method: Trained method in evaluation mode.
        backend: Engine that holds the exported file.
        sample: Real window, stored units, shape ``(band, row, col)``.
        limits: Largest accepted differences.

    Raises:
        VerificationError: They differ by more.
    """
    worst = 0.0
    differences, expected_classes, equal = [], [], []  # by window
    windows = windows_of(sample, method.receptive_field)
    for cube in windows:
        expected = reference(method, cube)
        actual = backend.predict(cube, method.outputs)
        for name, values in expected.items():
            if actual[name].shape != values.shape:
                raise VerificationError(
                    f"Parity failed: for {cube.shape} the file gives {name} of shape "
                    f"{actual[name].shape}, torch {values.shape}."
                )
            # np.maximum keeps a NaN, max() may drop it.
            worst = float(np.maximum(worst, np.abs(actual[name] - values).max()))
        wanted, given = expected[PROBABILITIES], actual[PROBABILITIES]
        top = np.sort(wanted, axis=1)
        tied = top[:, -1] - top[:, -2] <= TIE
        classes = wanted.argmax(axis=1)
        equal.append(((given.argmax(axis=1) == classes) | tied).ravel())
        expected_classes.append(classes.ravel())
        differences.append(np.abs(given - wanted).max(axis=(0, 2, 3)))  # (class,)
    alike, of_class = np.concatenate(equal), np.concatenate(expected_classes)
    per_class = [
        _of_class(alike[of_class == k], float(difference))
        for k, difference in enumerate(np.maximum.reduce(differences))
    ]
    result = Parity(
        max_abs_difference=worst,
        equal_class_share=float(alike.mean()),
        windows=len(windows),
        pixels=alike.size,
        classes=per_class,
    )
    _accept(result, limits)
    return result


def _accept(result: Parity, limits: Limits) -> None:
    """Refuse a file that differs by more than the limits.

    Raises:
        VerificationError: It does.
    """
    difference, share = result.max_abs_difference, result.equal_class_share
    if not (
        difference <= limits.max_abs_difference and share >= limits.equal_class_share
    ):
        raise VerificationError(
            f"Parity failed: probabilities differ by up to {difference:.2e} (accepted "
            f"{limits.max_abs_difference:.0e}), {share:.3%} of {result.pixels} pixels "
            f"have the same class (accepted {limits.equal_class_share:.2%}). No file "
            "was written."
        )


def _of_class(alike: NDArray[np.bool_], difference: float) -> ClassParity:
    share = float(alike.mean()) if alike.size else None
    return ClassParity(alike.size, share, difference)
