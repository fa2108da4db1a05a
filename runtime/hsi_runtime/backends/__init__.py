"""Inference engines behind one small interface, one file each."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hsi_runtime import graph
from hsi_runtime.errors import EngineError, ResourceError
from hsi_runtime.model_file import PROBABILITIES, ModelFile
from hsi_runtime.threads import usable_cores

DEVICES = ("auto", "cpu", "cuda", "tensorrt", "openvino")
CPU_DEVICES = ("cpu", "openvino")
PRESENT = CPU_DEVICES  # what this release has an engine for


class Backend(Protocol):
    """An engine that holds one model.

    Attributes:
        device: One of `DEVICES`.
        precision: The model's, unless the engine computes in another.
    """

    device: str
    precision: str

    def predict(
        self, cube: NDArray[np.float32], outputs: Sequence[str] = (PROBABILITIES,)
    ) -> dict[str, NDArray[np.float32]]:
        """Classify windows.

        Args:
            cube: Stored units of the training scene, shape
                ``(batch, band, row, col)``, without missing values.
            outputs: Names of what is wanted, from the model's document.

        Returns:
            Each by name, shape ``(batch, class, row - 2 halo, col - 2 halo)``.
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
    if device not in ("auto", *PRESENT):
        raise EngineError(
            f"--device {device}: this release has no engine for it; use --device cpu."
        )
    graph.check(model)
    threads = threads or usable_cores()
    if device == "openvino":
        from hsi_runtime.backends import openvino_cpu

        return openvino_cpu.start(model, threads)
    from hsi_runtime.backends.onnxruntime_cpu import OnnxruntimeCpu

    return OnnxruntimeCpu(model, threads)


def predict_in_parts(
    backend: Backend,
    cube: NDArray[np.float32],
    halo: int,
    outputs: Sequence[str] = (PROBABILITIES,),
) -> dict[str, NDArray[np.float32]]:
    """Classify a window; where memory runs out, its halves, down to single pixels.

    Dense networks give the same answer for any window, so only time is lost.
    """
    try:
        return backend.predict(cube, outputs)
    except ResourceError:
        axis = 2 if cube.shape[2] >= cube.shape[3] else 3
        pixels = cube.shape[axis] - 2 * halo
        if pixels < 2:
            raise
    half = pixels // 2
    first = np.take(cube, range(half + 2 * halo), axis=axis)
    last = np.take(cube, range(half, cube.shape[axis]), axis=axis)
    parts = [predict_in_parts(backend, part, halo, outputs) for part in (first, last)]
    return {
        name: np.concatenate([part[name] for part in parts], axis=axis)
        for name in outputs
    }
