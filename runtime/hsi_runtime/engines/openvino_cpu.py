"""OpenVINO on the CPU: the same file, faster than onnxruntime on some processors.

Processors that have bfloat16 compute faster in it, with 8 significant bits instead of
24. It is used where all of this holds: the model file was exported in half precision,
so its owner gave up digits knowingly; the export's comparison with torch passed in
bfloat16, too, by the limits of half precision, and the file says so; and the sample
stored in the file comes out within its tolerance on this processor. The precision is
logged, and written into the map. Everything else is computed in float32, and a float32
file always: nobody asked for another map.

A graph compiled for windows of one size is up to 1.7 times as fast as one for any size
(`.docs/pages/speed.md`), but takes 0.1 to 0.2 seconds to compile, and memory of its
own. So sides are rounded up to few sizes, and only the graphs used last are kept.
"""

import contextlib
import functools
import importlib.util
import logging
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.engines.memory_errors import is_out_of_memory, running_out_explained
from hsi_runtime.engines.self_test import self_test
from hsi_runtime.errors import (
    EngineError,
    HsiError,
    ModelFileError,
    VerificationError,
)
from hsi_runtime.model.model_file import INPUT_NAME, PROBABILITIES, ModelFile

DEVICE = "CPU"
MODULE = "openvino"
SIZE_BITS = 3  # leading binary digits of a side: four sizes between 64 and 128

log = logging.getLogger(__name__)


class OpenvinoCpu:
    """OpenVINO's engine for x86 and Arm.

    Attributes:
        fixed_windows: True: windows of one size are faster than of several.

    Args:
        model: A verified model file.
        threads: Threads that compute all windows together.
        windows_at_once: Windows that are computed at the same time.
        bfloat16: Compute in bfloat16 rather than float32.
        sizes: Graphs that are kept, each for windows of one size.

    Raises:
        EngineError: OpenVINO is not installed, or the processor has no bfloat16.
        ModelFileError: It refuses the model.
    """

    device = "openvino"
    fixed_windows = True

    def __init__(
        self,
        model: ModelFile,
        threads: int,
        windows_at_once: int = 1,
        bfloat16: bool = False,
        sizes: int = 1,
    ) -> None:
        self.precision: str = "bf16" if bfloat16 else model.document.precision
        self.windows_at_once = windows_at_once
        self._path, self._halo, self._most = model.path, model.document.halo, sizes
        self._core = _core()
        if bfloat16 and not _has_bfloat16(self._core):
            raise EngineError("This processor has no bfloat16.")
        self._settings: dict[str, Any] = {
            # Left to itself it computes in bfloat16 where the processor can.
            "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": windows_at_once,
        }
        self._compiling = threading.Lock()
        self._fixed = OrderedDict[tuple[int, ...], SimpleQueue[Any]]()  # by use
        sample = model.document.self_test.cube.unpack().shape
        with self._refusal_explained():
            # From the verified bytes: no file that the graph names can be opened.
            self._graph = self._core.read_model(model=model.onnx)
            self._requests(sample)  # compiled now, so that a refusal comes now

    def predict(
        self, cube: NDArray[np.float32], outputs: Sequence[str] = (PROBABILITIES,)
    ) -> dict[str, NDArray[np.float32]]:
        answers = [self._answer(window, outputs) for window in cube]
        return {name: np.stack([a[name] for a in answers]) for name in outputs}

    def _answer(
        self, window: NDArray[np.float32], outputs: Sequence[str]
    ) -> dict[str, NDArray[np.float32]]:
        """Classify a window ``(band, row, col)``.

        What lies below and to the right of it in the fixed window is of no outputs that
        are returned.
        """
        _, rows, cols = window.shape
        high, wide = rows - 2 * self._halo, cols - 2 * self._halo
        with running_out_explained(window[None]):
            idle = self._requests(window.shape)
            request = idle.get()
            try:
                request.get_tensor(INPUT_NAME).data[0, :, :rows, :cols] = window
                request.infer()
                # The engine's own memory is overwritten by the next window.
                return {
                    name: request.get_tensor(name).data[0, :, :high, :wide].copy()
                    for name in outputs
                }
            finally:
                idle.put(request)

    def _requests(self, window: tuple[int, ...]) -> SimpleQueue[Any]:
        """Return the idle requests of the graph that a window fits, compiled if new."""
        bands, *sides = window
        context = 2 * self._halo
        fixed = (1, bands, *(fixed_side(n - context) + context for n in sides))
        with self._compiling:
            idle = self._fixed.pop(fixed, None)
            if idle is None:
                while len(self._fixed) >= self._most:
                    self._fixed.popitem(last=False)  # its memory first
                idle = self._compiled(fixed)
            self._fixed[fixed] = idle
        return idle

    def _compiled(self, shape: tuple[int, ...]) -> SimpleQueue[Any]:
        with self._refusal_explained():
            graph = self._graph.clone()
            graph.reshape(list(shape))
            compiled = self._core.compile_model(graph, DEVICE, self._settings)
            idle = SimpleQueue[Any]()
            for _ in range(self.windows_at_once):
                request = compiled.create_infer_request()
                # OpenVINO prepares ``data`` at its first use, and never ends if two
                # threads come first at the same time: this thread is alone.
                request.get_tensor(INPUT_NAME).data[:] = 0
                idle.put(request)
        return idle

    @contextlib.contextmanager
    def _refusal_explained(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # its errors share no base but RuntimeError
            if isinstance(error, HsiError) or is_out_of_memory(error):
                raise
            raise ModelFileError(
                f"{self._path} is refused by OpenVINO: {_last_line(error)}"
            ) from error


def fixed_side(pixels: int) -> int:
    """Round a side up to one of few sizes: `SIZE_BITS` binary digits, then zeros."""
    step = 1 << max(pixels.bit_length() - SIZE_BITS, 0)
    return -(-pixels // step) * step


def is_installed() -> bool:
    """Return True if OpenVINO is installed, without importing it."""
    return importlib.util.find_spec(MODULE) is not None


def start(
    model: ModelFile, threads: int, windows_at_once: int = 1, sizes: int = 1
) -> OpenvinoCpu:
    """Start the engine, in bfloat16 if the rule above allows it.

    Raises:
        EngineError: OpenVINO is not installed.
        ModelFileError: It refuses the model.
    """
    core = _core()
    allowed = model.document.precision == "fp16" and model.proved_in_bfloat16
    if allowed and _has_bfloat16(core):
        fast = OpenvinoCpu(model, threads, windows_at_once, True, sizes)
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
    return OpenvinoCpu(model, threads, windows_at_once, sizes=sizes)


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
