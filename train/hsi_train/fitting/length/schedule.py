"""The schedule of a training: warm-up, steady rate, decay, and what begins each."""

import math
from typing import Any

from hsi_train.fitting.length.budget import DECAY, WARM_UP, Allowance, Budget
from hsi_train.fitting.progress import (
    DECAYING,
    EPOCHS,
    FITTED,
    LEARNED,
    LIMIT,
    QUICK,
    STEADY,
    TIME_UP,
    UNCHECKED,
    WARMING,
    Progress,
)
from hsi_train.fitting.settings import Settings

ROUND_STEPS = 100  # optimiser steps between two measurements of a learned length
MIN_ROUNDS = 3
MAX_ROUNDS = 20  # without a budget, which limits the length in its own way
UNCHECKED_ROUNDS = 6  # where no pixel can be held out to tell
QUICK_ROUNDS = 1
WARM_UP_STEPS = 30  # of a length that is not given
UNFINISHED = "still improving when the time was up"


class Schedule:
    """Says what the learning rate is at a step, and after which round training ends.

    Attributes:
        progress: What is finished so far.
        steps: Steps of a round.
        warm_up: Steps in which the rate rises.
        validates: True if validation pixels judge every round.
        allowance: The time that training may take; None for no limit.
    """

    def __init__(self, settings: Settings, steps_of_pass: int, validates: bool) -> None:
        """Plan the end where it does not depend on what is learned.

        Args:
            settings: How the method is trained.
            steps_of_pass: Steps of a pass over the training windows.
            validates: True if there are validation pixels.
        """
        self.progress = Progress()
        self.steps, self.warm_up = ROUND_STEPS, float(WARM_UP_STEPS)
        self.validates = validates
        self.allowance: Allowance | None = None
        self._patience, self._given = settings.patience, settings.epochs is not None
        if settings.quick and settings.epochs is None:
            self.plan(QUICK_ROUNDS, QUICK)
        elif settings.epochs is not None:
            self.steps = steps_of_pass
            self.warm_up = WARM_UP * settings.epochs * self.steps
            self.plan(settings.epochs, EPOCHS if settings.epochs else FITTED)
        elif not validates:
            self.plan(UNCHECKED_ROUNDS, UNCHECKED)

    def plan(self, rounds: int, stop: str) -> None:
        """Fix the number of rounds, the decay included, and say why."""
        self.progress.last, self.progress.stop = rounds, stop
        self.progress.decay_from = (1 - DECAY) * rounds * self.steps

    def train_until_time_is_up(self) -> None:
        """Drop the plan: only the time that is allowed ends the training."""
        self.progress.last, self.progress.stop = None, ""
        self.progress.decay_from = math.inf

    def allow(self, budget: Budget, share: float) -> None:
        """Train within a share of what is left of a budget.

        What a resumed training used before counts.
        """
        progress = self.progress
        budget.resume(progress.spent)
        if not progress.steps:
            progress.began = budget.used
        self.allowance = Allowance(budget, progress.began, share)

    @property
    def finished(self) -> bool:
        """Whether no further round is to come."""
        progress = self.progress
        if progress.last is not None and len(progress.history) >= progress.last:
            return True
        if self.time_is_up:
            progress.stop = TIME_UP
        return self.time_is_up

    @property
    def time_is_up(self) -> bool:
        """Whether the allowance is over; the first step is always taken."""
        allowed = self.allowance
        return allowed is not None and self.progress.steps > 0 and allowed.left <= 0

    @property
    def phase(self) -> str:
        """Name of the phase that the next step belongs to."""
        done, allowed = self.progress.steps, self.allowance
        if done >= self.progress.decay_from or (allowed and allowed.falling < 1):
            return DECAYING
        warm = done >= self.warm_up or (allowed is not None and allowed.rising >= 1)
        return STEADY if warm else WARMING

    def rate(self, step: int) -> float:
        """Return the share of the learning rate at a step."""
        warm = min(1.0, (step + 1) / max(self.warm_up, 1.0))
        left, decay_from = 1.0, self.progress.decay_from
        if step >= decay_from:
            assert self.progress.last is not None
            end = self.progress.last * self.steps
            left = (end - step) / max(end - decay_from, 1.0)
        if self.allowance is not None:
            warm = max(warm, self.allowance.rising)
            left = min(left, self.allowance.falling)
        return warm * (0.5 - 0.5 * math.cos(math.pi * min(max(left, 0.0), 1.0)))

    def expected_steps(self, epoch: int) -> int:
        """Return the number of all steps, as far as it is known in a round."""
        progress, allowed = self.progress, self.allowance
        expected = (progress.last or max(MIN_ROUNDS, epoch + 1)) * self.steps
        if allowed is None or not progress.steps:
            return expected
        in_time = allowed.expected_steps(progress.steps)
        return in_time if progress.last is None else min(in_time, expected)

    def plan_end(self, epoch: int) -> None:
        """Begin the decay once nothing more is learned, or end a given length."""
        progress = self.progress
        if progress.last is None:
            learned = epoch >= MIN_ROUNDS and self._waited(epoch)
            if learned or (epoch >= MAX_ROUNDS and self.allowance is None):
                progress.stop = LEARNED if learned else LIMIT
                progress.decay_from = epoch * self.steps
                progress.last = epoch + round(epoch * DECAY / (1 - DECAY))
        elif self._given and self._waited(epoch):
            progress.last, progress.stop = epoch, LEARNED

    def _waited(self, epoch: int) -> bool:
        """Return True if validation has not become better for long enough."""
        stands_still = epoch - self.progress.improved >= self._patience > 0
        return self.validates and stands_still

    @property
    def verdict(self) -> str:
        """What the budget cost."""
        progress = self.progress
        if progress.verdict or not self.validates:
            return progress.verdict or "nothing was held out to tell what it cost"
        if progress.stop == TIME_UP and not self._waited(len(progress.history)):
            return UNFINISHED
        best = min(progress.improved * self.steps, progress.steps)
        return f"had stopped improving at step {best:,}"

    def summary(self) -> dict[str, Any]:
        """Return how long was trained, as ``metrics.json`` holds it."""
        progress = self.progress
        result: dict[str, Any] = {
            "rounds": len(progress.history),
            "steps": progress.steps,
            "phases": progress.phases(self.warm_up),
            "stop_reason": progress.stop,
        }
        if self.allowance is not None:
            budget = self.allowance.budget
            result["budget"] = {
                "seconds": budget.seconds,
                "used": budget.used,
                "verdict": self.verdict,
            }
        return result
