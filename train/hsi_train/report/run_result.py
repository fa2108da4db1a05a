"""A finished training, as its report shows it."""

from dataclasses import dataclass
from typing import Any

import torch

from hsi_train.data.labelled_scene import LabelledData
from hsi_train.fitting.progress import Progress
from hsi_train.method import BaseMethod
from hsi_train.run_folder.checkpoint import Description
from hsi_train.target import Target


@dataclass(frozen=True)
class RunResult:
    """A finished training.

    Attributes:
        method: The trained method, in evaluation mode.
        device: Where the method lives.
        data: Scenes, classes and the roles of the pixels.
        progress: History of the training.
        metrics: The content of ``metrics.json``.
        description: What the checkpoint says about itself.
        target_data: The target scenes that ``metrics`` measures, if any.
    """

    method: BaseMethod
    device: torch.device
    data: LabelledData
    progress: Progress
    metrics: dict[str, Any]
    description: Description
    target_data: Target | None = None
