from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from hsi_runtime.engines.opening import open_backend
from hsi_runtime.engines.self_test import self_test
from hsi_runtime.errors import VerificationError
from hsi_runtime.model.model_file import PROBABILITIES, ModelFile, read_model


@pytest.fixture(scope="module")
def model(
    write_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> ModelFile:
    return read_model(write_model(tmp_path_factory.mktemp("model") / "model.onnx"))


class Altered:
    """An engine that is off by a given amount in one pixel."""

    device = "altered"
    precision = "fp32"
    windows_at_once = 1

    def __init__(self, model: ModelFile, change: float) -> None:
        self.inner = open_backend(model, "cpu", 1)
        self.change = np.float32(change)

    def predict(
        self, cube: NDArray[np.float32], outputs: Sequence[str] = (PROBABILITIES,)
    ) -> dict[str, NDArray[np.float32]]:
        found = self.inner.predict(cube)
        found[PROBABILITIES][0, 1, 2, 2] += self.change
        return found


def test_healthy_engine_passes(model: ModelFile) -> None:
    result = self_test(model, open_backend(model))
    assert result.max_abs_difference < 1e-5
    assert result.equal_class_share == 1
    assert result.pixels == 9
    assert result.tolerance == 1e-4


@pytest.mark.parametrize("change", [2e-4, -0.5, np.nan, np.inf])
def test_engine_that_differs_fails(model: ModelFile, change: float) -> None:
    with pytest.raises(VerificationError, match=r"failed on altered: .* of 9 pixels"):
        self_test(model, Altered(model, change))


def test_difference_within_tolerance_passes(model: ModelFile) -> None:
    result = self_test(model, Altered(model, 5e-5))
    assert 4e-5 < result.max_abs_difference < 1e-4
