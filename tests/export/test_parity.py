from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hsi_export import parity
from hsi_export.parity import Limits
from hsi_runtime.errors import VerificationError
from hsi_runtime.model.model_file import PROBABILITIES
from hsi_train.run_folder import checkpoint
from hsi_train.run_folder.checkpoint import Checkpoint

Change = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@pytest.fixture(scope="module")
def loaded(trained: Any) -> Checkpoint:
    return checkpoint.load(trained.run)


class Torch:
    """An engine that is torch itself, with its answer changed."""

    device = "torch"
    precision = "fp32"
    windows_at_once = 1

    def __init__(
        self, loaded: Checkpoint, change: Change = lambda found: found
    ) -> None:
        self.loaded, self.change = loaded, change

    def predict(
        self, cube: NDArray[np.float32], outputs: Sequence[str] = (PROBABILITIES,)
    ) -> dict[str, NDArray[np.float32]]:
        found = parity.reference(self.loaded.method, cube)
        return {name: self.change(values.copy()) for name, values in found.items()}


def check(loaded: Checkpoint, change: Change) -> parity.Parity:
    engine = Torch(loaded, change)
    return parity.check(loaded.method, engine, loaded.sample, Limits(1e-4, 0.9999))


def test_same_answers_pass(loaded: Checkpoint) -> None:
    result = check(loaded, lambda found: found)
    assert result.max_abs_difference == 0
    assert result.equal_class_share == 1
    assert result.windows >= 4
    assert result.pixels > 1000


def test_each_class_is_compared_by_itself(loaded: Checkpoint) -> None:
    """One pixel goes to another class, whose probability rises."""
    cube = parity.windows_of(loaded.sample, loaded.method.receptive_field)[-1]
    chance = parity.reference(loaded.method, cube)[PROBABILITIES]
    lost = int(chance[0, :, 0, 0].argmax())
    won = (lost + 1) % chance.shape[1]

    def swap(found: NDArray[np.float32]) -> NDArray[np.float32]:
        if found.shape == chance.shape:
            found[0, [lost, won], 0, 0] = found[0, [won, lost], 0, 0]
        return found

    engine = Torch(loaded, swap)
    result = parity.check(loaded.method, engine, loaded.sample, Limits(1.0, 0.9))
    assert sum(c.pixels for c in result.classes) == result.pixels
    for k, found in enumerate(result.classes):
        moved = k in (lost, won)
        assert (found.max_abs_difference > 0.01) == moved
        if found.pixels:
            equal = (found.pixels - (k == lost)) / found.pixels
            assert found.equal_class_share == pytest.approx(equal)


def one_value(found: NDArray[np.float32]) -> NDArray[np.float32]:
    found[0, 0, -1, -1] += 2e-4
    return found


def swapped(found: NDArray[np.float32]) -> NDArray[np.float32]:
    return found[:, ::-1]


def shifted(found: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.roll(found, 1, axis=3)


def cropped(found: NDArray[np.float32]) -> NDArray[np.float32]:
    return found[:, :, :-1]


def nan_in_the_best(found: NDArray[np.float32]) -> NDArray[np.float32]:
    """Leave every argmax as it is."""
    best = found.argmax(axis=1)[:, None]
    np.put_along_axis(found, best, np.nan, axis=1)
    return found


def one_nan(found: NDArray[np.float32]) -> NDArray[np.float32]:
    found[0, found[0, :, 0, 0].argmax(), 0, 0] = np.nan
    return found


def infinite(found: NDArray[np.float32]) -> NDArray[np.float32]:
    return found * np.float32(np.inf)


@pytest.mark.parametrize(
    "change",
    [one_value, swapped, shifted, cropped, nan_in_the_best, one_nan, infinite],
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_any_other_answer_fails(change: Change, loaded: Checkpoint) -> None:
    with pytest.raises(VerificationError, match="Parity failed"):
        check(loaded, change)


def test_ties_may_swap(loaded: Checkpoint) -> None:
    def nudged(found: NDArray[np.float32]) -> NDArray[np.float32]:
        return found + np.float32(1e-7)

    assert check(loaded, nudged).equal_class_share == 1


def test_windows_have_several_sizes_and_fit_any_sample() -> None:
    sample = np.arange(3 * 40 * 50).reshape(3, 40, 50).astype(np.uint16)
    found = parity.windows_of(sample, 13)
    sizes = {w.shape[2:] for w in found}
    assert {(13, 13), (40, 50), (13, 50), (40, 13)} <= sizes
    assert len(sizes) == len(found) >= 5
    assert all(w.dtype == np.float32 and w.flags.c_contiguous for w in found)
    (only,) = parity.windows_of(sample[:, :13, :13], 13)
    assert only.shape == (1, 3, 13, 13)
