"""Starts the engine of a device."""

import logging
from functools import partial

from hsi_runtime.engines import choosing, openvino_cpu
from hsi_runtime.engines.backend import (
    CPU_DEVICES,
    DEVICES,
    GPU_DEVICES,
    PLUGIN_DEVICES,
    Backend,
)
from hsi_runtime.errors import EngineError, HsiError
from hsi_runtime.machine import engine_threads
from hsi_runtime.model import graph_check
from hsi_runtime.model.model_file import ModelDocument, ModelFile
from hsi_runtime.walk import memory
from hsi_runtime.walk.windows import DEFAULT_TILE

log = logging.getLogger(__name__)


def open_backend(
    model: ModelFile,
    device: str = "auto",
    threads: int | None = None,
    tile: int | None = None,
    max_memory_bytes: int | None = None,
    measure: bool = False,
) -> Backend:
    """Start the engine of a device.

    Args:
        model: A verified model file.
        device: One of `DEVICES`; ``auto`` takes the best that is present, and says so.
        threads: Threads of an engine on the CPU; all usable cores where None. They are
            divided among the windows that are computed at once.
        tile: Side of the largest square that will be classified at once, px; None for
            the default.
        max_memory_bytes: Limit of the whole process, or None.
        measure: Let ``auto`` choose between the engines of a CPU by a measurement of
            about two seconds, which is kept.

    Raises:
        OptionError: The number of threads is out of range.
        EngineError: The device is not known, or its engine is not there.
        ModelFileError: The engine refuses the model.
        ResourceError: Memory or disk ran out.
        VerificationError: An engine built now, or an accelerator that a plug-in
            reaches, does not answer like training.
    """
    if device not in DEVICES:
        raise EngineError(
            f"There is no device {device!r}; choose from {', '.join(DEVICES)}."
        )
    threads = engine_threads(threads)
    graph_check.check(model)
    if device in GPU_DEVICES:
        return _start_gpu(model, device, tile)
    if device in PLUGIN_DEVICES:
        from hsi_runtime.engines import plugin

        return plugin.start(model, device)
    if device in CPU_DEVICES:
        return _start_cpu(model, threads, tile, max_memory_bytes, device)
    backend = _best_gpu(model, tile)
    if backend is None:
        limits = threads, tile, max_memory_bytes
        if measure and openvino_cpu.is_installed():
            side = tile or best_tile(model.document, "cpu")
            start = partial(_start_cpu, model, *limits)
            chosen = choosing.fastest(model, side, threads, start)
            if chosen is not None:
                return chosen
        backend = _start_cpu(model, *limits, "cpu")
    log.info(f"Engine: {backend.device}, the best that is present.")
    return backend


def _start_gpu(model: ModelFile, device: str, tile: int | None) -> Backend:
    """Import and start one engine; the others stay on disk."""
    if device == "tensorrt":
        from hsi_runtime.engines.nvidia.tensorrt_gpu import TensorrtGpu

        # Smaller windows fit an engine for the default, too.
        return TensorrtGpu(model, max(tile or 0, DEFAULT_TILE))
    from hsi_runtime.engines.nvidia.onnxruntime_cuda import OnnxruntimeCuda

    return OnnxruntimeCuda(model)


def _start_cpu(
    model: ModelFile,
    threads: int,
    tile: int | None,
    max_memory_bytes: int | None,
    device: str,
) -> Backend:
    """Start a CPU engine; its windows share the threads evenly, and no more of them."""
    at_once = memory.windows_at_once(model.document, tile, max_memory_bytes, threads)
    if device == "openvino":
        sizes = memory.sizes_kept(model.document, tile, max_memory_bytes, at_once)
        return openvino_cpu.start(model, threads, at_once, sizes)
    from hsi_runtime.engines.onnxruntime_cpu import OnnxruntimeCpu

    return OnnxruntimeCpu(model, threads // at_once, at_once)


def _best_gpu(model: ModelFile, tile: int | None) -> Backend | None:
    """Start the fastest engine that is installed and works; say why one does not."""
    from hsi_runtime.engines.nvidia import onnxruntime_cuda, tensorrt_gpu

    installed = {
        "tensorrt": tensorrt_gpu.is_installed,
        "cuda": onnxruntime_cuda.is_installed,
    }
    for device in GPU_DEVICES:
        if not installed[device]():
            continue
        try:
            return _start_gpu(model, device, tile)
        except HsiError as error:
            log.warning(f"The engine {device} is installed, but: {error}")
    return None


def best_tile(document: ModelDocument, device: str) -> int:
    """Choose the side of the squares that a device classifies fastest, px."""
    if device in GPU_DEVICES + PLUGIN_DEVICES:
        return DEFAULT_TILE
    return memory.tile_on_cpu(document.macs_per_pixel, document.working_bytes)
