import copy
import math
from typing import Any

import pytest
import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from hsi_runtime.errors import RecipeError
from hsi_train.fitting import pretrain
from hsi_train.fitting.optimisation import Optimisation, check_finite
from hsi_train.fitting.pretrain import warm_up_share

CPU = torch.device("cpu")


def optimisation_of(weight: torch.nn.Parameter, **more: Any) -> Optimisation:
    def schedule(optimizer: Optimizer) -> LRScheduler:
        return LambdaLR(optimizer, lambda step: 1 / (1 + step))

    settings: dict[str, Any] = {"schedule": schedule, "device": CPU}
    return Optimisation([weight], [{"params": [weight], "lr": 0.1}], **settings | more)


def loss_of(weight: torch.nn.Parameter) -> torch.Tensor:
    return ((weight - 3) * torch.rand(())).square().sum()


def take(optimisation: Optimisation, weight: torch.nn.Parameter, steps: int) -> None:
    for _ in range(steps):
        with optimisation.precision():
            loss = loss_of(weight)
        optimisation.step(loss)
        optimisation.advance()


def test_a_loaded_state_goes_on_bit_for_bit() -> None:
    torch.manual_seed(1)
    whole = torch.nn.Parameter(torch.zeros(2))
    optimisation = optimisation_of(whole)
    take(optimisation, whole, 4)
    state = copy.deepcopy(optimisation.state())  # it holds the live tensors
    middle = whole.detach().clone()
    take(optimisation, whole, 5)
    resumed = torch.nn.Parameter(middle)
    other = optimisation_of(resumed)
    other.load(state)
    assert other.learning_rate == pytest.approx(0.1 / 5)
    take(other, resumed, 5)
    assert torch.equal(whole, resumed)
    assert other.learning_rate == optimisation.learning_rate


def test_gradients_are_clipped_together() -> None:
    weight = torch.nn.Parameter(torch.zeros(4))
    optimisation = optimisation_of(weight)
    optimisation.step((1e6 * weight).sum())
    assert weight.grad is not None
    assert float(weight.grad.norm()) == pytest.approx(1)
    optimisation.clear()
    assert weight.grad is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(RecipeError, match=r"loss became .* in epoch 3\. Lower fit\.x"):
        check_finite(value, "epoch 3", "fit.x")
    check_finite(0.0, "epoch 3", "fit.x")


@pytest.mark.parametrize("share", [0.1, pretrain.WARM_UP])
@pytest.mark.parametrize("steps", [2, 9, 10, 11, 20, 21, 1000])
def test_schedule_takes_any_number_of_steps(share: float, steps: int) -> None:
    """A warm-up of exactly one step divides by zero in torch."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1.0, total_steps=steps, pct_start=warm_up_share(share, steps)
    )
    rates = []
    for _ in range(steps):
        optimizer.step()
        rates.append(schedule.get_last_lr()[0])
        if len(rates) < steps:
            schedule.step()
    assert max(rates) > 0.03
