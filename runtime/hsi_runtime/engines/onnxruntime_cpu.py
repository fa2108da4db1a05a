"""onnxruntime on the CPU."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.engines.memory_errors import running_out_explained
from hsi_runtime.errors import EngineError, ModelFileError
from hsi_runtime.model.model_file import INPUT_NAME, PROBABILITIES, ModelFile

PROVIDER = "CPUExecutionProvider"


class OnnxruntimeCpu:
    """The reference engine: present on every machine, answers like torch in fp32.

    Args:
        model: A verified model file.
        threads: Threads that compute one window.
        windows_at_once: Windows that are computed at the same time.

    Raises:
        EngineError: onnxruntime is not installed, or broken.
        ModelFileError: It refuses the model.
    """

    device = "cpu"

    def __init__(
        self, model: ModelFile, threads: int, windows_at_once: int = 1
    ) -> None:
        self.precision: str = model.document.precision
        self.windows_at_once = windows_at_once
        try:
            import onnxruntime

            options = onnxruntime.SessionOptions()
        except (ImportError, AttributeError) as error:
            raise EngineError(
                "onnxruntime is missing or broken (two of its wheels overwrite each "
                "other); install one: pip install 'hsi-edge[cpu]'"
            ) from error
        options.intra_op_num_threads = threads
        # Readers and writers share the cores: an idle engine must not spin on them.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.enable_mem_pattern = False  # window shapes vary
        options.log_severity_level = 3
        try:
            # From the verified bytes: no file that the graph names can be opened.
            self._session = onnxruntime.InferenceSession(
                model.onnx, options, providers=[PROVIDER]
            )
        except Exception as error:  # its errors share no base but Exception
            raise ModelFileError(
                f"{model.path} is refused by onnxruntime: {_first_line(error)}"
            ) from error

    def predict(
        self, cube: NDArray[np.float32], outputs: Sequence[str] = (PROBABILITIES,)
    ) -> dict[str, NDArray[np.float32]]:
        with running_out_explained(cube):
            values = self._session.run(list(outputs), {INPUT_NAME: cube})
        return dict(zip(outputs, values, strict=True))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
