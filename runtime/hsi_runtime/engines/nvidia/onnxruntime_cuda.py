"""onnxruntime on an NVIDIA GPU, through CUDA."""

import contextlib
import functools
import importlib.metadata
import io
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.engines.backend import WINDOWS_ON_GPU
from hsi_runtime.engines.memory_errors import (
    failure_of_gpu,
    is_out_of_memory,
    running_out_explained,
)
from hsi_runtime.engines.nvidia import cuda_memory
from hsi_runtime.errors import (
    DeviceLostError,
    EngineError,
    HsiError,
    ModelFileError,
    ResourceError,
)
from hsi_runtime.model.model_file import INPUT_NAME, PROBABILITIES, ModelFile

log = logging.getLogger(__name__)

PROVIDER = "CUDAExecutionProvider"
MEMORY = "cuda"
OPTIONS = {
    "cudnn_conv_algo_search": "HEURISTIC",  # a search for every new shape takes seconds
    "use_tf32": "0",  # float32 means float32, as in training
}
SILENT = 4  # our own errors report what goes wrong
WHEELS = ("onnxruntime", "onnxruntime-gpu")


def is_installed() -> bool:
    """Return True if the installed onnxruntime was compiled for CUDA."""
    try:
        import onnxruntime

        return PROVIDER in onnxruntime.get_available_providers()
    except (ImportError, AttributeError):
        return False


class OnnxruntimeCuda:
    """onnxruntime's CUDA engine, never its silent retreat to the CPU.

    Args:
        model: A verified model file, whose graph was checked.

    Raises:
        EngineError: No GPU, or no onnxruntime that can use it.
        ModelFileError: onnxruntime refuses the graph.
    """

    device = "cuda"
    windows_at_once = WINDOWS_ON_GPU

    def __init__(self, model: ModelFile) -> None:
        self.precision: str = model.document.precision
        self._answered = False
        two = _two_wheels()
        if not is_installed():
            raise EngineError(
                two
                or "The installed onnxruntime, if any, has no CUDA; pip uninstall "
                "onnxruntime, then pip install 'hsi-edge[gpu]', or use --device cpu."
            )
        if two:
            log.warning(two)
        _ask_driver()
        import onnxruntime

        missing = _preload()
        options = onnxruntime.SessionOptions()
        options.enable_mem_pattern = False  # window shapes vary
        options.log_severity_level = SILENT
        onnxruntime.set_default_logger_severity(SILENT)
        try:
            # Its retreat to the CPU is printed, and stdout is the user's.
            with contextlib.redirect_stdout(io.StringIO()):
                # From the verified bytes: no file the graph names can be opened.
                self._session = onnxruntime.InferenceSession(
                    model.onnx, options, providers=[(PROVIDER, OPTIONS)]
                )
        except Exception as error:  # its errors share no base but Exception
            if is_out_of_memory(error):
                raise ResourceError("The GPU's memory ran out; free it.") from error
            raise ModelFileError(
                f"{model.path} is refused by onnxruntime: {str(error).splitlines()[0]}"
            ) from error
        if PROVIDER not in self._session.get_providers():
            raise EngineError(
                "onnxruntime cannot use the GPU and would compute on the CPU "
                f"({missing or 'it does not say why'}); pip install 'hsi-edge[gpu]' "
                "and a driver for CUDA 13, or use --device cpu."
            )

    def predict(
        self, cube: NDArray[np.float32], outputs: Sequence[str] = (PROBABILITIES,)
    ) -> dict[str, NDArray[np.float32]]:
        """Classify windows; see `Backend`.

        Raises:
            ResourceError: Memory ran out: the window's parts may pass.
            EngineError: The GPU fails on the first window.
            DeviceLostError: It fails on a later one.
        """
        try:
            with running_out_explained(cube):
                # Inputs and outputs of its own, so that two threads can ask at once.
                binding = self._session.io_binding()
                binding.bind_cpu_input(INPUT_NAME, np.ascontiguousarray(cube))
                for name in outputs:
                    binding.bind_output(name, MEMORY)
                self._session.run_with_iobinding(binding)
                values: list[Any] = binding.copy_outputs_to_cpu()
        except Exception as error:  # its errors share no base but Exception
            why = failure_of_gpu(error)
            if why is None:
                raise
            kind: type[HsiError] = DeviceLostError if self._answered else EngineError
            raise kind(cuda_memory.failed(why)) from error
        self._answered = True
        return dict(zip(outputs, values, strict=True))


def _ask_driver() -> None:
    """Ask for a GPU where cuda-bindings is there, which says best what is missing.

    Raises:
        EngineError: There is none.
    """
    try:
        cuda = cuda_memory.load()
    except EngineError:  # onnxruntime does without
        return
    cuda_memory.probe(cuda)


def _two_wheels() -> str:
    """Return a warning if both wheels, which overwrite each other, are installed."""
    for name in WHEELS:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return ""
    return (
        "onnxruntime and onnxruntime-gpu are both installed and overwrite each other; "
        "pip uninstall both, then pip install 'hsi-edge[gpu]'."
    )


@functools.cache
def _preload() -> str:
    """Load the CUDA libraries that came with pip, once; return what is missing."""
    import onnxruntime

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        onnxruntime.preload_dlls()
    return printed.getvalue().strip().partition("\n")[0]
