"""The GPU without torch: is one there, its memory, pinned memory, streams.

Through ``cuda-bindings``. The probe comes before any TensorRT object is made: without a
driver some of those hold a null pointer, and touching it ends the process.
"""

import ctypes
import importlib
import weakref
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.errors import EngineError, ResourceError

MODULE = "cuda.bindings.runtime"
DEVICE = 0  # CUDA_VISIBLE_DEVICES chooses among several
NON_BLOCKING = 1  # cudaStreamNonBlocking


class Gpu(NamedTuple):
    """The GPU that this process uses.

    Attributes:
        name: Name that the driver gives it.
        compute_capability: Compute capability, such as ``9.0``.
    """

    name: str
    compute_capability: str


def load() -> Any:
    """Import the module of CUDA's runtime.

    Raises:
        EngineError: It is not installed.
    """
    try:
        return importlib.import_module(MODULE)
    except ImportError as error:
        raise EngineError(
            "cuda-bindings is missing; pip install 'hsi-edge[tensorrt]' (on a Jetson "
            "cuda-bindings of JetPack's CUDA), or use --device cpu."
        ) from error


def probe(cuda: Any) -> Gpu:
    """Ask the driver for the GPU.

    Args:
        cuda: The module `load` gives.

    Raises:
        EngineError: There is no driver, an old one, or no GPU.
    """
    code, count = cuda.cudaGetDeviceCount()
    if code == cuda.cudaError_t.cudaErrorInsufficientDriver:
        raise EngineError(
            "There is no NVIDIA driver, or one too old for the installed cuda-bindings "
            f"({explain(cuda, code)}); update the driver, or use --device cpu."
        )
    if code != cuda.cudaError_t.cudaSuccess or not count:
        why = explain(cuda, code) if code else "the driver lists none"
        raise EngineError(f"There is no usable GPU ({why}); use --device cpu.")
    device = check(cuda, cuda.cudaGetDeviceProperties(DEVICE))
    name = device.name.decode() if isinstance(device.name, bytes) else device.name
    return Gpu(name, f"{device.major}.{device.minor}")


def explain(cuda: Any, code: Any) -> str:
    """Return CUDA's own text for an error code."""
    words = cuda.cudaGetErrorString(code)[1]
    return words.decode() if isinstance(words, bytes) else str(words)


def failed(why: str) -> str:
    """Return the message for a GPU that failed."""
    return f"The GPU failed: {why}; start again, or use --device cpu."


def check(cuda: Any, answer: tuple[Any, ...]) -> Any:
    """Return the values of a CUDA call, without its error code.

    Raises:
        ResourceError: The memory of the GPU, or pinned memory, ran out.
        EngineError: Any other failure.
    """
    code, *values = answer
    if code == cuda.cudaError_t.cudaErrorMemoryAllocation:
        raise ResourceError(
            "The GPU's memory ran out; choose a smaller --tile, or free the GPU."
        )
    if code != cuda.cudaError_t.cudaSuccess:
        raise EngineError(failed(explain(cuda, code)))
    return values[0] if values else None


class Stream:
    """A queue of work on the GPU, carried out in order beside other queues."""

    def __init__(self, cuda: Any) -> None:
        self._cuda = cuda
        self._stream = check(cuda, cuda.cudaStreamCreateWithFlags(NON_BLOCKING))
        weakref.finalize(self, cuda.cudaStreamDestroy, self._stream)

    @property
    def handle(self) -> int:
        """What TensorRT takes for a stream."""
        return int(self._stream)

    def upload(self, buffer: "Buffer", count: int) -> None:
        """Queue a copy of the first ``count`` values to the GPU."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._copy(buffer.device, buffer.host, count, kind)

    def download(self, buffer: "Buffer", count: int) -> None:
        """Queue a copy of the first ``count`` values from the GPU."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._copy(buffer.host, buffer.device, count, kind)

    def wait(self) -> None:
        """Wait until all queued work is done; other threads go on meanwhile."""
        check(self._cuda, self._cuda.cudaStreamSynchronize(self._stream))

    def _copy(self, target: int, source: int, count: int, kind: Any) -> None:
        size = count * np.dtype(np.float32).itemsize
        answer = self._cuda.cudaMemcpyAsync(target, source, size, kind, self._stream)
        check(self._cuda, answer)


class Buffer:
    """Room for float32 values, on the GPU and pinned in the machine's memory.

    The GPU copies pinned memory by itself, while the processor goes on.

    Args:
        cuda: The module `load` gives.
        count: Values.
    """

    def __init__(self, cuda: Any, count: int) -> None:
        size = count * np.dtype(np.float32).itemsize
        self.device = int(check(cuda, cuda.cudaMalloc(size)))
        weakref.finalize(self, cuda.cudaFree, self.device)
        self.host = int(check(cuda, cuda.cudaMallocHost(size)))
        weakref.finalize(self, cuda.cudaFreeHost, self.host)
        held = (ctypes.c_float * count).from_address(self.host)
        self.values: NDArray[np.float32] = np.ctypeslib.as_array(held)
