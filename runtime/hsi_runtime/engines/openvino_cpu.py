"""OpenVINO on the CPU: the same file, faster than onnxruntime on some processors.

Processors that have bfloat16 compute faster in it, with 8 significant bits instead of
24. It is used where all of this holds: the model file was exported in half precision,
so its owner gave up digits knowingly; the export's comparison with torch passed in
bfloat16, too, by the limits of half precision, and the file says so; and the sample
stored in the file comes out within its tolerance on this processor. The precision is
logged, and written into the map. Everything else is computed in float32, and a float32
file always: nobody asked for another map.
"""

import functools
import logging
import sys
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.engines.memory_errors import running_out_explained
from hsi_runtime.engines.self_test import self_test
from hsi_runtime.errors import EngineError, ModelFileError, VerificationError
from hsi_runtime.model.model_file import INPUT_NAME, PROBABILITIES, ModelFile

DEVICE = "CPU"

log = logging.getLogger(__name__)


class OpenvinoCpu:
    """OpenVINO's engine for x86 and Arm.

    Args:
        model: A verified model file.
        threads: Threads that compute all windows together.
        windows_at_once: Windows that are computed at the same time.
        bfloat16: Compute in bfloat16 rather than float32.

    Raises:
        EngineError: OpenVINO is not installed, or the processor has no bfloat16.
        ModelFileError: It refuses the model.
    """

    device = "openvino"

    def __init__(
        self,
        model: ModelFile,
        threads: int,
        windows_at_once: int = 1,
        bfloat16: bool = False,
    ) -> None:
        self.precision: str = "bf16" if bfloat16 else model.document.precision
        self.windows_at_once = windows_at_once
        core = _core()
        if bfloat16 and not _has_bfloat16(core):
            raise EngineError("This processor has no bfloat16.")
        settings: dict[str, Any] = {
            # Left to itself it computes in bfloat16 where the processor can.
            "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": windows_at_once,
        }
        try:
            # From the verified bytes: no file that the graph names can be opened.
            read = core.read_model(model=model.onnx)
            compiled = core.compile_model(read, DEVICE, settings)
            self._idle = SimpleQueue[Any]()
            for _ in range(windows_at_once):
                self._idle.put(compiled.create_infer_request())
        except Exception as error:  # its errors share no base but RuntimeError
            raise ModelFileError(
                f"{model.path} is refused by OpenVINO: {_last_line(error)}"
            ) from error

    def predict(
        self, cube: NDArray[np.float32], outputs: Sequence[str] = (PROBABILITIES,)
    ) -> dict[str, NDArray[np.float32]]:
        request = self._idle.get()
        try:
            with running_out_explained(cube):
                request.infer({INPUT_NAME: np.ascontiguousarray(cube)})
            # The engine's own memory is overwritten by the next window.
            return {name: request.get_tensor(name).data.copy() for name in outputs}
        finally:
            self._idle.put(request)


def start(model: ModelFile, threads: int, windows_at_once: int = 1) -> OpenvinoCpu:
    """Start the engine, in bfloat16 if the rule above allows it.

    Raises:
        EngineError: OpenVINO is not installed.
        ModelFileError: It refuses the model.
    """
    core = _core()
    allowed = model.document.precision == "fp16" and model.proved_in_bfloat16
    if allowed and _has_bfloat16(core):
        fast = OpenvinoCpu(model, threads, windows_at_once, bfloat16=True)
        try:
            result = self_test(model, fast)
        except VerificationError:
            log.info("bfloat16 is too coarse for the model's stored sample: not used.")
        else:
            log.warning(
                "The model is in half precision; this processor computes it in "
                f"bfloat16, {result.max_abs_difference:.1e} off in the stored sample "
                f"(tolerance {result.tolerance:.0e}). The float32 file is more exact."
            )
            return fast
    return OpenvinoCpu(model, threads, windows_at_once)


def _core() -> Any:
    # Its import would report itself to a web service, from a forked process that may
    # hang; without this package it does not.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise EngineError(
            "openvino is missing; pip install 'hsi-edge[openvino]', or use "
            "--device cpu."
        ) from error
    return _one_core(openvino.Core)


@functools.cache
def _one_core(make: Callable[[], Any]) -> Any:
    """Make the core of the whole process.

    A core gives signal handlers a stack and frees it when it goes. If another core goes
    later, it puts the freed one back, and the next Ctrl-C is a segmentation fault.
    """
    return make()


def _has_bfloat16(core: Any) -> bool:
    return "BF16" in core.get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip()
