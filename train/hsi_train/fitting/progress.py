"""What a training has done so far: rounds, best weights, and its plan to end."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from hsi_train.linear.gate import Gate

State = dict[str, Tensor]


@dataclass(frozen=True)
class Epoch:
    """One line of ``history.csv``; validation is None without validation pixels."""

    epoch: int
    loss: float
    learning_rate: float
    validation_kappa: float | None
    validation_accuracy: float | None
    seconds: float


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
    """

    history: list[Epoch] = field(default_factory=list)
    best_loss: float = math.inf
    best_epoch: int = 0
    best: State | None = None
    improved: int = 0
    last: int | None = None
    decay_from: float = math.inf
    mean: State | None = None
