"""Builds a TensorRT engine from a model file: the same way on TensorRT 10 and 11.

Precision lives in the graph, so the network is strongly typed. `trt` is the module
``tensorrt``; ``tensorrt_rtx``, which builds without a GPU, can stand for it in tests.
"""

import functools
import logging
import threading
import time
from typing import Any, NamedTuple

from hsi_runtime.errors import EngineError, HsiError, ModelFileError, ResourceError
from hsi_runtime.model.model_file import INPUT_NAME, ModelDocument, ModelFile
from hsi_runtime.walk.threads import in_background

log = logging.getLogger(__name__)

RECIPE = 1  # raise it with every change here that changes engines
# Enough for windows of this size, and leaves a Jetson, whose GPU shares it, its memory.
WORKSPACE_BYTES = 1024**3
SAY_EVERY_S = 10.0
Shape = tuple[int, int, int, int]


class Profile(NamedTuple):
    """Window shapes ``(batch, band, row, col)`` that an engine takes.

    It is fastest for the largest: nearly all windows of a scene are of that shape.
    """

    smallest: Shape
    largest: Shape


def profile_of(document: ModelDocument, tile: int) -> Profile:
    """Return the shapes of windows: squares of up to ``tile`` outputs."""
    bands, side = len(document.bands.used), document.receptive_field
    widest = tile + 2 * document.halo
    return Profile((1, bands, side, side), (1, bands, widest, widest))


def build(trt: Any, model: ModelFile, profile: Profile) -> bytes:
    """Build an engine for this machine's GPU, and log the progress.

    Args:
        trt: The module ``tensorrt``, or one like it.
        model: A verified model file, whose graph was checked.
        profile: Window shapes.

    Returns:
        The serialized engine.

    Raises:
        ModelFileError: TensorRT does not support the graph.
        ResourceError: Memory ran out.
        EngineError: Any other failure.
    """
    _listen(trt).complaints.clear()
    try:
        builder = trt.Builder(_listen(trt))
    except TypeError as error:  # its factory gave nothing
        raise failure(trt, "TensorRT has no builder") from error
    network = builder.create_network(
        1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    )
    parser = trt.OnnxParser(network, _listen(trt))
    # From the verified bytes: no file that the graph names can be opened.
    if not parser.parse(model.onnx):
        why = "it gives no reason"
        if parser.num_errors:
            first = parser.get_error(0)
            message = " ".join(first.desc().split())
            why = f"{first.node_operator()} {first.node_name()}: {message}"
        raise ModelFileError(f"{model.path} is refused by TensorRT: {why}.")
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # float32 means float32, as in training
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    shapes = builder.create_optimization_profile()
    shapes.set_shape(INPUT_NAME, profile.smallest, profile.largest, profile.largest)
    if config.add_optimization_profile(shapes) < 0:
        raise EngineError(f"TensorRT refuses the window shapes {profile}.")
    config.progress_monitor = monitor = _monitor(trt)
    teller = threading.Thread(target=monitor.tell, daemon=True, name="teller")
    teller.start()
    try:
        built = in_background(lambda: builder.build_serialized_network(network, config))
    finally:
        monitor.ended.set()  # a build that the user stops ends at its next step
        teller.join()
    if built is None:
        raise failure(trt, f"TensorRT built no engine for {model.path}")
    return bytes(built)


def deserialize(trt: Any, engine: bytes) -> Any:
    """Load an engine that this program built and nobody else could change.

    Returns:
        The engine, or None where TensorRT refuses it.
    """
    _listen(trt).complaints.clear()
    return _runtime(trt).deserialize_cuda_engine(engine)


def failure(trt: Any, what: str) -> HsiError:
    """Make the error of something that TensorRT refused, with its own reason."""
    complaints = _listen(trt).complaints
    why = complaints[0] if complaints else "it gives no reason"
    complaints.clear()
    if "memory" in why.lower() or "alloc" in why.lower():
        return ResourceError(
            f"{what}, memory ran out: {why}. Choose a smaller --tile, or free the GPU."
        )
    return EngineError(f"{what}: {why}. Use --device cuda or cpu.")


@functools.cache
def _runtime(trt: Any) -> Any:
    """Make the runtime that holds all engines; a GPU must have been found before."""
    runtime = trt.Runtime(_listen(trt))
    runtime.engine_host_code_allowed = False
    return runtime


@functools.cache
def _listen(trt: Any) -> Any:
    """Make the logger of a TensorRT module, which keeps the first that it is given."""

    class Listener(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.complaints: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.complaints.append(" ".join(message.split()))
            log.debug("TensorRT: %s", message)

    return Listener()


def _monitor(trt: Any) -> Any:
    """Make the object to which TensorRT reports progress, from threads of its own."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.ended = threading.Event()
            self.now = "starting"
            self.steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.now, self.steps[phase] = phase, steps

        def step_complete(self, phase: str, step: int) -> bool:
            self.now = f"{phase}, step {step + 1} of {self.steps.get(phase, '?')}"
            return not self.ended.is_set()

        def phase_finish(self, phase: str) -> None:
            self.steps.pop(phase, None)

        def tell(self) -> None:
            """Log the progress at intervals, until the build has ended."""
            started = time.monotonic()
            while not self.ended.wait(SAY_EVERY_S):
                log.info(f"TensorRT, {time.monotonic() - started:.0f} s: {self.now}.")

    return Monitor()
