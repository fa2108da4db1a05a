"""Classify hyperspectral scenes of any size with an exported model file.

import hsi_runtime

hsi_runtime.classify("scene.tif", "model.onnx", confidence=True)
found = hsi_runtime.Model("model.onnx").predict(cube)
"""

import os
from typing import TYPE_CHECKING, Any

# Nothing leaves the machine: onnxruntime's wheels upload usage events from Linux, too,
# unless this is set before they are imported. Every package imports this file first.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

if TYPE_CHECKING:
    from hsi_runtime.api import Model, Prediction, classify, classify_all
    from hsi_runtime.parts.workers import Workers

__all__ = ["Model", "Prediction", "Workers", "classify", "classify_all"]


def __getattr__(name: str) -> Any:
    """Load the interface when it is first used: commands start without it."""
    if name in __all__:
        from hsi_runtime import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
