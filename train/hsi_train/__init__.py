"""Train hyperspectral classifiers from labelled scenes.

import hsi_train

run = hsi_train.train("enmap_potsdam-mf2cnet", "runs/potsdam")
print(run.metrics["overall_accuracy"])
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hsi_train.api import Run, train

__all__ = ["Run", "train"]


def __getattr__(name: str) -> Any:
    """Load the interface when it is first used: commands start without torch."""
    if name in __all__:
        from hsi_train import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
