"""Steps of AdamW under a schedule, for training and for pre-training."""

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from hsi_runtime.errors import RecipeError
from hsi_train.fitting.device import trains_in_bf16
from hsi_train.fitting.resume_state import random_state, restore_random
from hsi_train.processes.dealing import average

MAX_GRADIENT_NORM = 1.0


class Optimisation:
    """AdamW, its schedule, precision and clipping; can be saved between steps.

    Attributes:
        bf16: True if products are computed in bf16; weights and sums stay in fp32.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        groups: list[dict[str, Any]],
        *,
        schedule: Callable[[Optimizer], LRScheduler],
        device: torch.device,
        **adamw: Any,
    ) -> None:
        """Start at the first step.

        Args:
            parameters: All whose gradients are clipped together.
            groups: Parameter groups of AdamW, each with ``lr``, its peak.
            schedule: Makes the schedule of an optimiser.
            device: Where the parameters live.
            **adamw: Settings that all groups share.
        """
        self._parameters = list(parameters)
        self._device = device
        self._optimizer = torch.optim.AdamW(groups, **adamw)
        self._schedule = schedule(self._optimizer)
        self.bf16 = trains_in_bf16(device)

    @property
    def learning_rate(self) -> float:
        """Present learning rate of the first group."""
        return float(self._schedule.get_last_lr()[0])

    def precision(self) -> AbstractContextManager[Any]:
        """Return the context in which a loss is computed."""
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self.bf16)

    def step(self, loss: Tensor) -> float:
        """Move the parameters that the loss reached, and return its value.

        Parameters without a gradient stay.
        """
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        average(self._parameters)
        torch.nn.utils.clip_grad_norm_(
            self._parameters, MAX_GRADIENT_NORM, error_if_nonfinite=False
        )
        self._optimizer.step()
        return float(loss.detach())

    def advance(self) -> None:
        """Take one step of the schedule."""
        self._schedule.step()

    def clear(self) -> None:
        """Drop the gradients, which would count when those of others are clipped."""
        self._optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any]:
        """Return all that `load` needs, torch's random generators included."""
        return {
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "random": random_state(self._device),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Continue where `state` was called."""
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        restore_random(state["random"], self._device)


def check_finite(value: float, when: str, setting: str) -> None:
    """Refuse a loss that is no number.

    Args:
        value: The loss.
        when: Epoch or step.
        setting: Key of the learning rate in a recipe.

    Raises:
        RecipeError: The loss is infinite or not a number.
    """
    if not math.isfinite(value):
        raise RecipeError(
            f"The loss became {value} in {when}. Lower {setting}, or look for extreme "
            "values in the scenes."
        )
