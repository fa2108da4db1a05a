"""What a training has done so far: rounds, best weights, and its plan to end."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from hsi_train.linear.gate import Gate

State = dict[str, Tensor]


WARMING, STEADY, DECAYING = "warm-up", "steady", "decay"
# Why a training ended, as ``metrics.json`` says it.
LEARNED, LIMIT, TIME_UP = "learned", "limit", "budget"
HELD_OUT, UNCHECKED = "held_out", "unchecked"
FOLDS, MEMBERS = "folds", "members"
EPOCHS, QUICK, FITTED = "epochs", "quick", "fitted"
LEFT_OUT = "left_out"
REASONS = {
    LEARNED: "validation had stopped improving",
    LIMIT: "no training goes on longer",
    TIME_UP: "the time was up",
    HELD_OUT: "held-out training pixels gave the length",
    UNCHECKED: "no pixel could be held out to tell the length",
    FOLDS: "folds gave the length",
    MEMBERS: "every member was trained",
    EPOCHS: "the number of epochs was given",
    QUICK: "a quick training was requested",
    FITTED: "the scores were fitted at once",
    LEFT_OUT: "nothing of the network is in the map",
}


@dataclass(frozen=True)
class Epoch:
    """One line of ``history.csv``; validation is None without validation pixels."""

    epoch: int
    loss: float
    learning_rate: float
    validation_kappa: float | None
    validation_accuracy: float | None
    seconds: float
    validation_loss: float | None = None


def ignore(*_: object) -> None:
    """Do nothing."""


@dataclass(frozen=True)
class Watch:
    """Functions that are told how a training goes on.

    Attributes:
        phase: Called with the name of a phase when it begins.
        step: Called with finished steps, all steps as far as they are known, and the
            loss.
        epoch: Called with each finished round.
    """

    phase: Callable[[str], None] = ignore
    step: Callable[[int, int, float], None] = ignore
    epoch: Callable[[Epoch], None] = ignore


UNWATCHED = Watch()


class Measured(NamedTuple):
    """The averaged weights of a round, and what validation says of them.

    Attributes:
        state: Weights, batch statistics measured anew.
        gate: How much of the network's scores counts, and the loss with it.
        kappa: Kappa of the validation pixels.
        accuracy: Overall accuracy of the validation pixels.
    """

    state: State
    gate: Gate
    kappa: float
    accuracy: float


@dataclass
class Progress:
    """What a resumed run needs besides weights and optimisation.

    Attributes:
        history: One entry for each finished round.
        best_loss: Least loss of the validation pixels.
        best_epoch: Number of the round whose weights are kept, from 1; 0 where none was
            needed.
        best: Those weights.
        improved: Last round whose loss fell by more than `trainer.GAIN`.
        last: Number of the last round; None until that is known.
        decay_from: Step from which the learning rate falls.
        mean: Running mean of the weights.
        steps: Finished steps.
        decayed: Steps after which the rate began to fall; None until then.
        stop: Why the last round is the last; empty until that is known.
        held_out: Steps of a first training that found the length.
        verdict: What a budget cost, as that training saw it.
        began: Seconds of a budget that were used when this training began.
        spent: Seconds of a budget that were used when it was saved.
    """

    history: list[Epoch] = field(default_factory=list)
    best_loss: float = math.inf
    best_epoch: int = 0
    best: State | None = None
    improved: int = 0
    last: int | None = None
    decay_from: float = math.inf
    mean: State | None = None
    steps: int = 0
    decayed: int | None = None
    stop: str = ""
    held_out: int = 0
    verdict: str = ""
    began: float = 0.0
    spent: float = 0.0

    def phases(self, warm_up: float) -> dict[str, int]:
        """Count the steps of each phase; ``warm_up`` is the planned length of one."""
        steady_end = self.steps if self.decayed is None else self.decayed
        first = min(math.ceil(warm_up), steady_end)
        return {
            "held_out": self.held_out,
            "warm_up": first,
            "steady": steady_end - first,
            "decay": self.steps - steady_end,
        }


def describe(training: dict[str, Any]) -> str:
    """Return a sentence on how long a training was; from ``metrics.json``."""
    reason = REASONS[training["stop_reason"]]
    if not training["steps"]:
        return f"Training: no steps, {reason}."
    phases = training["phases"]
    names = {"warm_up": WARMING, "steady": STEADY, "decay": DECAYING}
    parts = ", ".join(f"{phases[k]:,} {name}" for k, name in names.items())
    text = f"Training: {training['steps']:,} steps ({parts}); it ended because {reason}"
    if phases["held_out"]:
        text += f", in {phases['held_out']:,} steps before"
    budget = training.get("budget")
    if budget:
        text += f". Budget of {budget['seconds']:g} s: {budget['verdict']}"
    return f"{text}."


def describe_balance(training: dict[str, Any]) -> str:
    """Return a sentence where rare classes count for more; else an empty text.

    Args:
        training: Of ``metrics.json``; earlier versions had no balance.
    """
    if not training.get("balance"):
        return ""
    return (
        f"Rare classes count for more (balance {training['balance']:g}): more held-out "
        "pixels are right averaged over classes, and in no place fewer."
    )
