"""A budget of wall time, and the parts of it that trainings have."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from hsi_train.processes.group import of_first

WARM_UP = 0.1  # share of a known length in which the learning rate rises
DECAY = 0.3  # share of any length in which it falls to zero
TINY = 1e-9  # seconds


def clock_of_first() -> float:
    """Return the seconds of a clock that all processes of a training share."""
    return of_first(time.monotonic())


class Budget:
    """Wall time that a training may take, with all that comes after it.

    Attributes:
        seconds: All of it.
        reserve: What the measuring after the last step takes, as far as it is known.
    """

    def __init__(
        self, seconds: float, clock: Callable[[], float] = clock_of_first
    ) -> None:
        """Start the clock."""
        self.seconds, self.reserve = seconds, 0.0
        self._clock, self._began, self._before = clock, clock(), 0.0

    @property
    def used(self) -> float:
        """Seconds that are gone, those of an interrupted run included."""
        return self._before + self._clock() - self._began

    @property
    def end(self) -> float:
        """Seconds after which the last step has to be done."""
        return self.seconds - self.reserve

    def resume(self, used: float) -> None:
        """Add the seconds that an interrupted run used."""
        self._before += used


@dataclass
class Allowance:
    """The part of a budget that one training has, its own measuring included.

    Attributes:
        budget: The budget.
        start: Seconds of it that were used when the training began.
        share: Share of what was left then.
        measuring: Seconds that a measurement takes, as far as it is known.
    """

    budget: Budget
    start: float
    share: float = 1.0
    measuring: float = 0.0

    @property
    def seconds(self) -> float:
        """Seconds from the first step to the last."""
        return max(self.share * (self.budget.end - self.start) - self.measuring, 0.0)

    @property
    def left(self) -> float:
        """Seconds until the last step has to be done; negative when it is too late."""
        return self.start + self.seconds - self.budget.used

    @property
    def rising(self) -> float:
        """How much of a warm-up is over, by the time alone: from 0 to 1."""
        gone = self.seconds - self.left
        return min(gone / max(WARM_UP * self.seconds, TINY), 1.0)

    @property
    def falling(self) -> float:
        """How much of the decay is to come: 1 before it, 0 at its end."""
        return min(max(self.left / max(DECAY * self.seconds, TINY), 0.0), 1.0)

    def expected_steps(self, done: int) -> int:
        """Extrapolate the number of steps from the time of those that are done."""
        gone = self.seconds - self.left
        return done + math.ceil(done * max(self.left, 0.0) / max(gone, TINY))
