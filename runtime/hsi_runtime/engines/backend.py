"""The interface that every engine has, and the devices they run on."""

import threading
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.model.model_file import PROBABILITIES

CPU_DEVICES = ("cpu", "openvino")
GPU_DEVICES = ("tensorrt", "cuda")  # the faster one first
PLUGIN_DEVICES = ("webgpu", "tensorrt-rtx", "qnn")
DEVICES = ("auto", "cpu", "cuda", "tensorrt", "openvino", *PLUGIN_DEVICES)
WINDOWS_ON_GPU = 2  # at once


class Backend(Protocol):
    """An engine that holds one model.

    Attributes:
        device: One of `DEVICES`.
        precision: The model's, unless the engine computes in another.
        windows_at_once: Threads that may call `predict` at the same time. On a CPU
            each window has cores of its own; on a GPU one is copied while the other is
            computed.

    An engine with ``fixed_windows = True`` gets windows of one size for a piece.
    """

    device: str
    precision: str
    windows_at_once: int

    def predict(
        self, cube: NDArray[np.float32], outputs: Sequence[str] = (PROBABILITIES,)
    ) -> dict[str, NDArray[np.float32]]:
        """Classify windows.

        Args:
            cube: Stored units of the training scene, shape
                ``(batch, band, row, col)``, without missing values.
            outputs: Names of the model's outputs to return.

        Returns:
            Each output by name, shape ``(batch, class, row - 2 halo, col - 2 halo)``.
        """


class InTurns:
    """An engine that more threads may use than compute at once; the others wait.

    Args:
        backend: The engine.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.device, self.precision = backend.device, backend.precision
        self.windows_at_once = backend.windows_at_once
        self._free = threading.Semaphore(self.windows_at_once)

    def __getattr__(self, name: str) -> Any:
        """Return what else the engine says of itself, such as its accelerator."""
        return getattr(self._backend, name)

    def predict(
        self, cube: NDArray[np.float32], outputs: Sequence[str] = (PROBABILITIES,)
    ) -> dict[str, NDArray[np.float32]]:
        with self._free:
            return self._backend.predict(cube, outputs)
