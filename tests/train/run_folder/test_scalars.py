import sys
from pathlib import Path

import pytest

from hsi_train.fitting.progress import Epoch
from hsi_train.run_folder.scalars import scalars


def epoch(number: int, accuracy: float | None = 0.75) -> Epoch:
    return Epoch(number, 1 / number, 0.01, accuracy, accuracy, 1.0)


def test_curves_are_written_and_resumed(tmp_path: Path) -> None:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    folder = tmp_path / "tensorboard"

    def steps(name: str) -> dict[int, float]:
        found = accumulator.EventAccumulator(str(folder))
        found.Reload()
        return {e.step: e.value for e in found.Scalars(name)}

    with scalars(folder, 0) as write:
        for number in (1, 2, 3):
            write(epoch(number))
        assert len(steps("loss")) == 3  # before it is closed: a crash loses nothing
    # The state of epoch 3 was not saved: it is trained once more.
    with scalars(folder, 2) as write:
        write(epoch(3, 0.5))
        write(epoch(4, None))
    assert steps("loss") == pytest.approx({1: 1, 2: 0.5, 3: 1 / 3, 4: 0.25})
    assert steps("validation/accuracy") == {1: 0.75, 2: 0.75, 3: 0.5}
    assert set(steps("learning_rate")) == {1, 2, 3, 4}


def test_without_tensorboard_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [n for n in sys.modules if n.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with scalars(tmp_path / "tensorboard", 0) as write:
        write(epoch(1))
    assert list(tmp_path.iterdir()) == []
