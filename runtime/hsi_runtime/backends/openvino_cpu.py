"""OpenVINO on the CPU: the same file, often faster than onnxruntime."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.backends.exhaustion import explained
from hsi_runtime.errors import EngineError, ModelFileError
from hsi_runtime.model_file import INPUT_NAME, PROBABILITIES, ModelFile

DEVICE = "CPU"


class OpenvinoCpu:
    """OpenVINO's engine for x86 and Arm, in float32."""

    device = "openvino"

    def __init__(self, model: ModelFile, threads: int) -> None:
        try:
            import openvino
        except ImportError as error:
            raise EngineError(
                "openvino is missing; pip install 'hsi-edge[openvino]', or use "
                "--device cpu."
            ) from error
        core = openvino.Core()
        settings: dict[str, Any] = {
            # Left to itself it computes in bfloat16 where the processor can.
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        try:
            # From the verified bytes: no file that the graph names can be opened.
            read = core.read_model(model=model.onnx)
            self._request = core.compile_model(
                read, DEVICE, settings
            ).create_infer_request()
        except Exception as error:  # its errors share no base but RuntimeError
            raise ModelFileError(
                f"{model.path} is refused by OpenVINO: {_last_line(error)}"
            ) from error

    def predict(
        self, cube: NDArray[np.float32], outputs: Sequence[str] = (PROBABILITIES,)
    ) -> dict[str, NDArray[np.float32]]:
        with explained(cube):
            self._request.infer({INPUT_NAME: np.ascontiguousarray(cube)})
        # The engine's own memory is overwritten by the next window.
        return {name: self._request.get_tensor(name).data.copy() for name in outputs}


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip()
