"""Runs the sample stored in a model file and compares it with training."""

from dataclasses import dataclass

import numpy as np

from hsi_runtime.engines.backend import Backend
from hsi_runtime.errors import VerificationError
from hsi_runtime.model.model_file import PROBABILITIES, ModelFile


@dataclass(frozen=True)
class SelfTestResult:
    """Difference between this engine and training.

    Attributes:
        max_abs_difference: Largest difference in probability.
        equal_class_share: Share of pixels with the same class.
        tolerance: Largest accepted difference.
        pixels: Number of pixels compared.
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
    computed = backend.predict(cube)[PROBABILITIES][0]
    model.document.check_answer(cube.shape[2:], {PROBABILITIES: computed})
    difference = float(np.abs(computed - expected).max())
    same = float((computed.argmax(axis=0) == expected.argmax(axis=0)).mean())
    result = SelfTestResult(
        max_abs_difference=difference,
        equal_class_share=same,
        tolerance=sample.tolerance,
        pixels=computed[0].size,
    )
    if not difference <= sample.tolerance:
        raise VerificationError(
            f"Self-test failed on {backend.device}: probabilities differ by up to "
            f"{difference:.2e} (tolerance {sample.tolerance:.0e}), "
            f"{same:.2%} of {result.pixels} pixels have the same class. Do not trust "
            "this engine with this model."
        )
    return result
