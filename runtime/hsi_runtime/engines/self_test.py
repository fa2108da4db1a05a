"""Runs the sample stored in a model file and compares with training's answer."""

from dataclasses import dataclass

import numpy as np

from hsi_runtime.engines.backend import Backend
from hsi_runtime.errors import VerificationError
from hsi_runtime.model.model_file import PROBABILITIES, ModelFile


@dataclass(frozen=True)
class SelfTestResult:
    """How far this engine is from training's answer.

    Attributes:
        max_abs_difference: In probability.
        equal_class_share: Share of pixels with the same class.
        tolerance: Largest accepted difference.
        pixels: Compared.
    """

    max_abs_difference: float
    equal_class_share: float
    tolerance: float
    pixels: int


def self_test(model: ModelFile, backend: Backend) -> SelfTestResult:
    """Compare the engine with the probabilities stored in the model.

    Raises:
        VerificationError: They differ by more than the model's tolerance.
    """
    sample = model.document.self_test
    cube = sample.cube.unpack().astype(np.float32)[None]
    expected = sample.probabilities.unpack()
    found = backend.predict(cube)[PROBABILITIES][0]
    difference = float(np.abs(found - expected).max())
    same = float((found.argmax(axis=0) == expected.argmax(axis=0)).mean())
    result = SelfTestResult(difference, same, sample.tolerance, found[0].size)
    if not difference <= sample.tolerance:
        raise VerificationError(
            f"Self-test failed on {backend.device}: probabilities differ by up to "
            f"{difference:.2e} (tolerance {sample.tolerance:.0e}), "
            f"{same:.2%} of {result.pixels} pixels have the same class. Do not trust "
            "this engine with this model."
        )
    return result
