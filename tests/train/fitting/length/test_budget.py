import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsi_train.fitting.length.budget import DECAY, Allowance, Budget


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_what_comes_after_training_is_set_aside() -> None:
    clock = Clock()
    budget = Budget(60, clock)
    budget.reserve = 10
    allowed = Allowance(budget, start=0.0, measuring=5)
    assert allowed.seconds == 45
    clock.now += 40
    assert allowed.left == pytest.approx(5)
    clock.now += 6
    assert allowed.left < 0


def test_two_trainings_share_a_budget() -> None:
    clock = Clock()
    budget = Budget(100, clock)
    first = Allowance(budget, start=0.0, share=0.5)
    assert first.seconds == 50
    clock.now += 30  # it learned nothing more after 30 seconds
    second = Allowance(budget, start=budget.used)
    assert second.seconds == pytest.approx(70)


def test_time_of_an_interrupted_run_counts() -> None:
    clock = Clock()
    budget = Budget(100, clock)
    clock.now += 2
    budget.resume(70)
    clock.now += 5
    assert budget.used == 77
    budget.resume(0)  # a second training that begins now
    assert budget.used == 77


def test_the_rate_falls_over_the_last_share_of_the_time() -> None:
    clock = Clock()
    allowed = Allowance(Budget(100, clock), start=0.0)
    falling = []
    for _ in range(11):
        falling.append(allowed.falling)
        clock.now += 10
    expected = [min((100 - 10 * k) / (100 * DECAY), 1) for k in range(11)]
    assert falling == pytest.approx(expected)


@given(
    seconds=st.floats(0.1, 1e5),
    reserve=st.floats(0, 1e5),
    gone=st.floats(0, 2e5),
    done=st.integers(1, 10**6),
)
def test_no_budget_is_too_short(
    seconds: float, reserve: float, gone: float, done: int
) -> None:
    """Shares stay shares, and a step count does not fall below what is done."""
    clock = Clock()
    budget = Budget(seconds, clock)
    budget.reserve = reserve
    allowed = Allowance(budget, start=0.0)
    clock.now += gone
    assert 0 <= allowed.falling <= 1
    assert allowed.rising <= 1
    assert allowed.expected_steps(done) >= done
