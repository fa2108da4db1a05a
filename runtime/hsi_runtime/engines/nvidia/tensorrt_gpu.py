"""TensorRT on an NVIDIA GPU, called directly: no torch, no cupy.

The engine is built from the model file on the machine that runs it, at first use, and
kept. Answers are those of float32 or half precision, whichever the model file holds.
"""

import contextlib
import importlib
import importlib.util
import logging
import queue
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.engines.backend import WINDOWS_ON_GPU
from hsi_runtime.engines.nvidia import cuda_memory, engine_build
from hsi_runtime.engines.nvidia.cuda_memory import Buffer, Gpu, Stream
from hsi_runtime.engines.nvidia.engine_cache import EngineCache, Key, folder
from hsi_runtime.errors import DeviceLostError, EngineError, ResourceError
from hsi_runtime.model.model_file import INPUT_NAME, PROBABILITIES, ModelFile

log = logging.getLogger(__name__)

MODULE = "tensorrt"
OLDEST = 10  # generation of TensorRT


def is_installed() -> bool:
    """Return True if TensorRT is installed, without importing it."""
    return importlib.util.find_spec(MODULE) is not None


def load() -> tuple[Any, Any, Gpu]:
    """Find the GPU, then import TensorRT.

    Returns:
        The modules of TensorRT and of CUDA, and the GPU.

    Raises:
        EngineError: One of them is missing.
    """
    cuda = cuda_memory.load()
    gpu = cuda_memory.probe(cuda)
    try:
        trt = importlib.import_module(MODULE)
    except (ImportError, OSError) as error:
        raise EngineError(
            f"TensorRT is missing or broken ({error}); pip install "
            "'hsi-edge[tensorrt]' (a Jetson brings its own), or use --device cuda or "
            "cpu."
        ) from error
    if int(trt.__version__.split(".")[0]) < OLDEST:
        raise EngineError(
            f"TensorRT {trt.__version__} is too old; {OLDEST} or newer is needed."
        )
    return trt, cuda, gpu


@dataclass(frozen=True)
class EngineEntry:
    """The engine in use.

    Attributes:
        path: File in the cache.
        key: Everything it was built for.
        built: True if it was built just now.
        seconds: Time that building, or loading, took.
    """

    path: Path
    key: Key
    built: bool
    seconds: float


class TensorrtGpu:
    """One engine, and room for `WINDOWS_ON_GPU` threads to ask it at once.

    Args:
        model: A verified model file, whose graph was checked.
        tile: Side of the largest square that is classified at once, px.

    Raises:
        EngineError: No GPU, no TensorRT, or a failure of either.
        ModelFileError: TensorRT refuses the graph.
        ResourceError: Memory or disk ran out.
        VerificationError: A new engine does not answer like training; it is not kept.
    """

    device = "tensorrt"
    windows_at_once = WINDOWS_ON_GPU

    def __init__(self, model: ModelFile, tile: int) -> None:
        started = time.monotonic()
        self._answered = False
        self._trt, self._cuda, gpu = load()
        self._document = document = model.document
        self.precision: str = document.precision
        self._profile = engine_build.profile_of(document, tile)
        key = Key(
            model=model.sha256,
            tensorrt=f"{self._trt.__name__} {self._trt.__version__}",
            gpu=gpu.name,
            compute_capability=gpu.compute_capability,
            profile=" to ".join("x".join(map(str, s)) for s in self._profile),
            precision=document.precision,
            recipe=engine_build.RECIPE,
        )
        with contextlib.closing(EngineCache(folder())) as cache:
            built = not self._take(cache.load(key)[0])
            if built:
                built = self._build(model, cache, key)
            path = cache.path / key.name
        self.engine = EngineEntry(path, key, built, time.monotonic() - started)

    def predict(
        self, cube: NDArray[np.float32], outputs: Sequence[str] = (PROBABILITIES,)
    ) -> dict[str, NDArray[np.float32]]:
        """Classify windows, one after the other; see `Backend`.

        Raises:
            ResourceError: A window is larger than the engine was built for, or memory
                ran out: its parts may pass.
            EngineError: The GPU fails on the first window.
            DeviceLostError: It fails on a later one.
        """
        largest = self._profile.largest
        if cube.shape[2] > largest[2] or cube.shape[3] > largest[3]:
            raise ResourceError(
                f"A window of {cube.shape[2]} x {cube.shape[3]} pixels is larger than "
                f"the engine's {largest[2]} x {largest[3]}; choose a smaller --tile."
            )
        with self._slot() as slot:
            parts = [self._answer(slot, window[None], outputs) for window in cube]
        return {n: np.concatenate([part[n] for part in parts]) for n in outputs}

    def _answer(
        self, slot: "_Slot", window: NDArray[np.float32], outputs: Sequence[str]
    ) -> dict[str, NDArray[np.float32]]:
        """Classify one window; a GPU that never worked is not one that is lost."""
        slot.take(window)
        try:
            values = slot.run(outputs)
        except EngineError as error:
            if not self._answered:
                raise
            raise DeviceLostError(str(error)) from error
        self._answered = True
        return values

    def _build(self, model: ModelFile, cache: EngineCache, key: Key) -> bool:
        """Build the engine, try it, keep it; or take it from who was faster."""
        from hsi_runtime.engines.self_test import self_test  # it needs an engine itself

        with cache.alone(key):
            kept, why = cache.load(key)
            if self._take(kept):
                return False
            why = why or "TensorRT refuses the one that is there"
            log.info(
                f"Building an engine for {key.gpu}, {key.tensorrt}, {key.precision}: "
                f"{why}. This takes minutes, once; it is kept in {cache.path}."
            )
            engine = engine_build.build(self._trt, model, self._profile)
            if not self._take(engine):
                raise engine_build.failure(self._trt, "TensorRT refuses its own engine")
            self_test(model, self)
            cache.store(key, engine)
        return True

    def _take(self, serialized: bytes | None) -> bool:
        """Load an engine and make room for windows; return True if that worked."""
        if serialized is None:
            return False
        engine = engine_build.deserialize(self._trt, serialized)
        if engine is None:
            return False
        self._slots: queue.SimpleQueue[_Slot] = queue.SimpleQueue()
        for _ in range(WINDOWS_ON_GPU):
            self._slots.put(_Slot(self._trt, self._cuda, engine, self._sizes()))
        return True

    def _sizes(self) -> dict[str, int]:
        """Count the values of the largest input and outputs, by name."""
        halo = self._document.halo
        _, _, height, width = self._profile.largest
        pixels = (height - 2 * halo) * (width - 2 * halo)
        each = len(self._document.classes) * pixels
        sizes = {INPUT_NAME: prod(self._profile.largest)}
        return sizes | dict.fromkeys(self._document.outputs, each)

    @contextlib.contextmanager
    def _slot(self) -> Iterator["_Slot"]:
        slot = self._slots.get()  # waits while all are busy
        try:
            yield slot
        finally:
            self._slots.put(slot)


class _Slot:
    """What one window needs: a context of the engine, a stream, and buffers."""

    def __init__(self, trt: Any, cuda: Any, engine: Any, sizes: dict[str, int]) -> None:
        self._trt = trt
        self._context = engine.create_execution_context()
        if self._context is None:
            raise engine_build.failure(trt, "TensorRT gives no room to compute in")
        self._stream = Stream(cuda)
        self._buffers = {name: Buffer(cuda, size) for name, size in sizes.items()}
        for name, buffer in self._buffers.items():
            self._must(self._context.set_tensor_address(name, buffer.device), name)

    def take(self, window: NDArray[np.float32]) -> None:
        """Take the window ``(1, band, row, col)`` to classify next."""
        self._shape = shape = tuple(window.shape)
        self._buffers[INPUT_NAME].values[: window.size] = window.ravel()
        self._must(self._context.set_input_shape(INPUT_NAME, shape), f"shape {shape}")

    def run(self, outputs: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Classify the window that was taken; other threads can go on."""
        self._stream.upload(self._buffers[INPUT_NAME], prod(self._shape))
        enqueued = self._context.execute_async_v3(self._stream.handle)
        self._must(enqueued, f"a window of shape {self._shape}")
        shapes = {n: tuple(self._context.get_tensor_shape(n)) for n in outputs}
        for name, made in shapes.items():
            self._stream.download(self._buffers[name], prod(made))
        self._stream.wait()
        return {
            name: self._buffers[name].values[: prod(made)].reshape(made).copy()
            for name, made in shapes.items()
        }

    def _must(self, accepted: bool, what: str) -> None:
        if not accepted:
            raise engine_build.failure(self._trt, f"TensorRT refuses {what}")
