"""onnxruntime on the CPU."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.errors import EngineError, ModelFileError, ResourceError
from hsi_runtime.model_file import INPUT_NAME, PROBABILITIES, ModelFile

PROVIDER = "CPUExecutionProvider"


class OnnxruntimeCpu:
    """The reference engine: present on every machine, answers like torch in fp32."""

    device = "cpu"

    def __init__(self, model: ModelFile, threads: int) -> None:
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
        _check_signature(model, self._session)

    def predict(
        self, cube: NDArray[np.float32], outputs: Sequence[str] = (PROBABILITIES,)
    ) -> dict[str, NDArray[np.float32]]:
        try:
            found = self._session.run(list(outputs), {INPUT_NAME: cube})
        except Exception as error:
            if "alloc" in str(error).lower():
                raise ResourceError(
                    f"Memory ran out on a window of {cube.shape[2]} x {cube.shape[3]} "
                    "pixels; choose a smaller --tile."
                ) from error
            raise
        return dict(zip(outputs, found, strict=True))


def _check_signature(model: ModelFile, session: Any) -> None:
    """Compare the graph's inputs and outputs with the document."""
    document = model.document
    inputs = {i.name: (i.type, i.shape) for i in session.get_inputs()}
    outputs = {o.name: (o.type, o.shape) for o in session.get_outputs()}
    kind, shape = inputs.get(INPUT_NAME, ("", []))
    expected = len(document.bands.used)
    if len(inputs) != 1 or kind != "tensor(float)" or shape[1:2] != [expected]:
        raise ModelFileError(
            f"{model.path}: the graph takes {inputs}; its document promises "
            f"{INPUT_NAME!r} with {expected} bands."
        )
    for name in document.outputs:
        kind, shape = outputs.get(name, ("", []))
        if kind != "tensor(float)" or shape[1:2] != [len(document.classes)]:
            raise ModelFileError(
                f"{model.path}: the graph gives {outputs}; its document promises "
                f"{name!r} of {len(document.classes)} classes."
            )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
