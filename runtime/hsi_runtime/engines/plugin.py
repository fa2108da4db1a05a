"""Other accelerators, by plug-ins of onnxruntime.

A plug-in is a package of its own beside plain onnxruntime; WebGPU reaches every GPU
that has a driver for Vulkan, Direct3D 12 or Metal. All such packages have the same two
functions (onnxruntime's page "Using a Plugin Execution Provider Library"), so that one
file serves them all. An accelerator is only used where it is asked for, and has to pass
the model's self-test each time it starts: `PLUGINS` says which we have run.
"""

import functools
import importlib
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.engines.backend import WINDOWS_ON_GPU
from hsi_runtime.engines.memory_errors import is_out_of_memory, running_out_explained
from hsi_runtime.engines.self_test import self_test
from hsi_runtime.errors import (
    DeviceLostError,
    EngineError,
    ResourceError,
)
from hsi_runtime.model.model_file import INPUT_NAME, PROBABILITIES, ModelFile

log = logging.getLogger(__name__)

# onnxruntime computes the sizes of arrays on the CPU, by these; nothing of a pixel.
OF_SIZES = {
    *("Add", "Cast", "Concat", "Constant", "ConstantOfShape", "Div", "Equal", "Expand"),
    *("Gather", "Identity", "Max", "Min", "Mod", "Mul", "Neg", "Range", "Reshape"),
    *("Shape", "Slice", "Squeeze", "Sub", "Unsqueeze", "Where"),
}
SILENT = 4  # our own errors report what goes wrong


class Plugin(NamedTuple):
    """The package of a plug-in.

    Attributes:
        module: Name by which it is imported.
        install: What to install.
    """

    module: str
    install: str


PLUGINS = {
    # Run by our tests, on a GPU in software.
    "webgpu": Plugin("onnxruntime_ep_webgpu", "'hsi-edge[webgpu]'"),
    # Never run by us: what they answer is known by the self-test alone.
    "tensorrt-rtx": Plugin(
        "onnxruntime_ep_nv_tensorrt_rtx", "onnxruntime-ep-nv-tensorrt-rtx"
    ),
    "qnn": Plugin("onnxruntime_qnn", "onnxruntime-qnn"),
}


class OnnxruntimePlugin:
    """An accelerator that a plug-in reaches, never its retreat to the CPU.

    Attributes:
        accelerator: Provider, version and hardware: what the answers depend on.

    Args:
        model: A verified model file, whose graph was checked.
        device: One of `PLUGINS`.

    Raises:
        EngineError: No such plug-in or accelerator, it does not know the graph, or it
            would leave work to the CPU.
        ResourceError: Memory ran out.
    """

    windows_at_once = WINDOWS_ON_GPU  # onnxruntime lets them wait where it must

    def __init__(self, model: ModelFile, device: str) -> None:
        self.device = device
        self.precision: str = model.document.precision
        self._answered = False
        provider, devices = _register(device)
        self.accelerator = _describe(devices[0])
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.enable_mem_pattern = False  # window shapes vary
        options.log_severity_level = SILENT
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        try:
            options.add_provider_for_devices(devices[:1], {})
            # From the verified bytes: no file that the graph names can be opened.
            self._session = onnxruntime.InferenceSession(model.onnx, options)
        except Exception as error:  # its errors share no base but Exception
            if is_out_of_memory(error):
                raise ResourceError(f"The memory of {device} ran out.") from error
            # Not the model's fault: many accelerators lack half precision.
            why = _first_line(error).rstrip(".")
            raise EngineError(
                f"{device} cannot compute this model: {why}. Use --device cpu."
            ) from error
        _check_work(self._session, provider, device)

    def predict(
        self, cube: NDArray[np.float32], outputs: Sequence[str] = (PROBABILITIES,)
    ) -> dict[str, NDArray[np.float32]]:
        """Classify windows; see `Backend`.

        Raises:
            ResourceError: Memory ran out: the window's parts may pass.
            EngineError: The accelerator fails on the first window.
            DeviceLostError: It fails on a later one.
        """
        try:
            with running_out_explained(cube):
                values: list[Any] = self._session.run(
                    list(outputs), {INPUT_NAME: np.ascontiguousarray(cube)}
                )
        except ResourceError:
            raise
        except Exception as error:  # its errors share no base but Exception
            kind = DeviceLostError if self._answered else EngineError
            raise kind(f"{self.device} failed: {_first_line(error)}") from error
        self._answered = True
        return dict(zip(outputs, values, strict=True))


def start(model: ModelFile, device: str) -> OnnxruntimePlugin:
    """Start an accelerator, and let it pass the model's self-test.

    Raises:
        EngineError: See `OnnxruntimePlugin`.
        ResourceError: Memory ran out.
        VerificationError: It does not answer like training.
    """
    backend = OnnxruntimePlugin(model, device)
    result = self_test(model, backend)
    log.info(
        f"Self-test on {device}: probabilities differ by at most "
        f"{result.max_abs_difference:.1e}."
    )
    return backend


@functools.cache
def _register(device: str) -> tuple[str, list[Any]]:
    """Load a plug-in, once.

    Returns:
        Name of the provider, and the accelerators that it can use.
    """
    plugin = PLUGINS[device]
    install = f"pip install {plugin.install}, or use --device cpu."
    try:
        import onnxruntime

        register = onnxruntime.register_execution_provider_library
    except (ImportError, AttributeError) as error:
        raise EngineError(
            f"{device} needs onnxruntime 1.27 or newer; {install}"
        ) from error
    try:
        module = importlib.import_module(plugin.module)
    except ImportError as error:
        raise EngineError(f"{device} is missing; {install}") from error
    onnxruntime.set_default_logger_severity(SILENT)
    try:
        register(device, module.get_library_path())
    except Exception as error:  # its errors share no base but Exception
        raise EngineError(
            f"{device} is installed, but cannot be loaded: {_first_line(error)}"
        ) from error
    provider = module.get_ep_name()
    found = [d for d in onnxruntime.get_ep_devices() if d.ep_name == provider]
    if not found:
        raise EngineError(
            f"{device} finds no accelerator with a driver. Install its driver, or use "
            "--device cpu."
        )
    return provider, found


def _describe(found: Any) -> str:
    hardware = found.device
    numbers = f"{hardware.vendor_id:04x}:{hardware.device_id:04x}"
    return f"{found.ep_name} {found.ep_metadata.get('version', '')} on {numbers}"


def _check_work(session: Any, provider: str, device: str) -> None:
    """Refuse a session that leaves more than sizes to the CPU, in silence.

    Raises:
        EngineError: It does.
    """
    left: Counter[str] = Counter()
    placed = 0
    for part in session.get_provider_graph_assignment_info():
        kinds = [node.op_type for node in part.get_nodes()]
        if part.ep_name == provider:
            placed += len(kinds)
        else:
            left.update(kind for kind in kinds if kind not in OF_SIZES)
    if left or not placed:
        named = ", ".join(f"{count} {kind}" for kind, count in left.most_common(3))
        raise EngineError(
            f"{device} would leave {named or 'everything'} of this model to the CPU. "
            "Use --device cpu."
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
