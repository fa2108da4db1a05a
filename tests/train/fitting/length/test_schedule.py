import math
from typing import Any

import pytest

from hsi_train.fitting import progress as words
from hsi_train.fitting.length import schedule as schedules
from hsi_train.fitting.length.budget import Budget
from hsi_train.fitting.length.schedule import Schedule
from hsi_train.fitting.progress import Epoch, describe
from hsi_train.fitting.settings import Settings

PATIENCE = 3


def schedule_of(validates: bool = True, **changes: Any) -> Schedule:
    settings: dict[str, Any] = {
        "epochs": None, "outputs": 1, "batch": 8, "learning_rate": 1e-3,
        "weight_decay": 0.0, "gain": 0.0, "noise": 0.0, "masked": 0.0,
        "patience": PATIENCE, "linear_path": True,
    }  # fmt: skip
    return Schedule(Settings(**settings | changes), 7, validates)


def finish_round(schedule: Schedule, better: bool, steps: int | None = None) -> None:
    progress = schedule.progress
    if progress.decayed is None and schedule.phase == words.DECAYING:
        progress.decayed = progress.steps
    progress.steps += steps or schedule.steps
    number = len(progress.history) + 1
    if better:
        progress.improved = number
    progress.history.append(Epoch(number, 1.0, 1e-3, None, None, 1.0))
    schedule.plan_end(number)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_training_goes_on_while_it_learns_then_decays() -> None:
    schedule = schedule_of()
    for better in (True, True, True, True, False, False, False):
        assert not schedule.finished
        finish_round(schedule, better)
    assert schedule.progress.last == 10
    rates = [schedule.rate(step) for step in range(701, 1000)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == pytest.approx(1, abs=1e-3)
    assert rates[-1] == pytest.approx(0, abs=1e-3)
    for _ in range(3):
        assert schedule.phase == words.DECAYING
        finish_round(schedule, better=False)
    assert schedule.finished
    summary = schedule.summary()
    assert summary["stop_reason"] == words.LEARNED
    assert summary["phases"] == {
        "held_out": 0, "warm_up": 30, "steady": 670, "decay": 300
    }  # fmt: skip


def test_no_training_goes_on_for_ever() -> None:
    schedule = schedule_of()
    while not schedule.finished:
        finish_round(schedule, better=True)
    assert schedule.summary()["stop_reason"] == words.LIMIT
    assert len(schedule.progress.history) > schedules.MAX_ROUNDS


@pytest.mark.parametrize("validates", [True, False])
def test_quick_is_a_hundred_steps(validates: bool) -> None:
    schedule = schedule_of(validates, quick=True)
    finish_round(schedule, better=True)
    assert schedule.finished
    summary = schedule.summary()
    assert (summary["steps"], summary["stop_reason"]) == (100, words.QUICK)
    assert summary["phases"]["decay"] == 0  # whole rounds were counted here
    assert schedule.rate(99) < 0.01


def in_time(schedule: Schedule, seconds: float, clock: Clock, share: float = 1) -> None:
    schedule.allow(Budget(seconds, clock), share)


def test_a_budget_ends_training_that_still_learns() -> None:
    schedule, clock = schedule_of(), Clock()
    in_time(schedule, 1000, clock)
    phases = []
    while not schedule.finished:
        phases.append(schedule.phase)
        clock.now += 10
        finish_round(schedule, better=True)
    assert clock.now == 1000
    assert phases.count(words.DECAYING) == 29
    summary = schedule.summary()
    assert summary["stop_reason"] == words.TIME_UP
    assert summary["budget"]["verdict"] == "still improving when the time was up"
    assert "Budget of 1000 s: still improving" in describe(summary)


def test_a_budget_does_not_lengthen_what_has_learned() -> None:
    schedule, clock = schedule_of(), Clock()
    in_time(schedule, 1000, clock)
    while not schedule.finished:
        clock.now += 1
        finish_round(schedule, better=not schedule.progress.history)
    summary = schedule.summary()
    assert summary["stop_reason"] == words.LEARNED
    assert summary["budget"]["verdict"] == "had stopped improving at step 100"
    assert summary["rounds"] == 6
    assert summary["budget"]["used"] == 6


def test_a_decay_that_began_ends_in_time_on_a_machine_that_slows_down() -> None:
    schedule, clock = schedule_of(), Clock()
    in_time(schedule, 100, clock)
    for _ in range(4):
        clock.now += 15
        finish_round(schedule, better=not schedule.progress.history)
    assert schedule.phase == words.DECAYING
    before = schedule.rate(401)
    clock.now = 99.9
    assert schedule.rate(401) < 0.01 < before
    clock.now = 100
    assert schedule.finished


def test_one_step_is_taken_however_short_the_budget() -> None:
    schedule, clock = schedule_of(), Clock()
    in_time(schedule, 1, clock)
    clock.now = 50
    assert not schedule.finished
    finish_round(schedule, better=True, steps=1)
    assert schedule.finished
    assert 0 <= schedule.rate(1) <= 1


def test_time_alone_ends_a_second_training_whose_first_ran_out_of_it() -> None:
    schedule, clock = schedule_of(validates=False), Clock()
    in_time(schedule, 100, clock)
    schedule.train_until_time_is_up()
    while not schedule.finished:
        assert schedule.progress.last is None
        clock.now += 1
        finish_round(schedule, better=False)
    assert clock.now == 100
    assert schedule.verdict == "nothing was held out to tell what it cost"
    schedule.progress.verdict = "still improving when the time was up"
    assert schedule.summary()["budget"]["verdict"] == schedule.progress.verdict


def test_expected_end_follows_the_time_of_the_steps() -> None:
    schedule, clock = schedule_of(), Clock()
    assert schedule.expected_steps(1) == 300
    in_time(schedule, 100, clock)
    clock.now = 10
    schedule.progress.steps = 20
    assert schedule.expected_steps(1) == 200
    schedule.plan(1, words.HELD_OUT)
    assert schedule.expected_steps(1) == 100


def test_a_given_length_is_described() -> None:
    schedule = schedule_of(epochs=2)
    assert schedule.progress.decay_from == pytest.approx(0.7 * 14)
    assert schedule_of(epochs=0).summary()["stop_reason"] == words.FITTED
    told = describe(schedule_of(epochs=0).summary())
    assert told == "Training: no steps, the scores were fitted at once."
    assert schedule_of(validates=False).progress.stop == words.UNCHECKED
    assert math.isinf(schedule_of().progress.decay_from)
