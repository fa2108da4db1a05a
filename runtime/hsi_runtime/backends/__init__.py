"""Inference engines behind one small interface, one file each."""

import os
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.errors import EngineError
from hsi_runtime.model_file import ModelFile

DEVICES = ("auto", "cpu", "cuda", "tensorrt", "openvino")
PRESENT = ("auto", "cpu")  # what this release has an engine for


class Backend(Protocol):
    """An engine that holds one model."""

    device: str

    def predict(self, cube: NDArray[np.float32]) -> NDArray[np.float32]:
        """Classify windows.

        Args:
            cube: Stored units of the training scene, shape
                ``(batch, band, row, col)``, without missing values.

        Returns:
            Probabilities, shape ``(batch, class, row - 2 halo, col - 2 halo)``.
        """


def open_backend(
    model: ModelFile, device: str = "auto", threads: int | None = None
) -> Backend:
    """Start the engine of a device.

    Args:
        model: A verified model file.
        device: One of `DEVICES`; ``auto`` takes the best that is present.
        threads: Threads of the engine; all usable cores where None.

    Raises:
        EngineError: The device is not known, or its engine is not installed.
        ModelFileError: The engine refuses the model.
    """
    if device not in DEVICES:
        raise EngineError(
            f"There is no device {device!r}; choose from {', '.join(DEVICES)}."
        )
    if device not in PRESENT:
        raise EngineError(
            f"--device {device}: this release has no engine for it; use --device cpu."
        )
    from hsi_runtime.backends.onnxruntime_cpu import OnnxruntimeCpu

    return OnnxruntimeCpu(model, threads or len(os.sched_getaffinity(0)))
