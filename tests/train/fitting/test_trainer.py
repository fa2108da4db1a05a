import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from hsi_runtime.errors import OutputError, RecipeError
from hsi_train import methods
from hsi_train.data.labelled_scene import LabelledData
from hsi_train.data.roles import Role
from hsi_train.fitting import statistics as patches
from hsi_train.fitting import trainer as trainer_module
from hsi_train.fitting.length import schedule
from hsi_train.fitting.length.schedule import MAX_ROUNDS
from hsi_train.fitting.progress import Epoch, Measured
from hsi_train.fitting.settings import choose_settings
from hsi_train.fitting.trainer import Trainer
from hsi_train.fitting.windows import Windows
from hsi_train.linear.gate import Gate
from hsi_train.method import Defaults
from hsi_train.recipe import Fit
from hsi_train.splitting import split

MakeData = Callable[..., LabelledData]

HALO = 6
OPTIONS = {"features": 4, "hidden": 8, "dropout": 0.2}


def fields(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.kron(rng.integers(1, 4, (5, 5)), np.ones((5, 5), dtype=int))


@pytest.fixture
def problem(make_data: MakeData) -> LabelledData:
    data = split.per_class(make_data(fields()), 6, 0)
    roles = data.scenes[0].roles
    roles[(roles == Role.TEST) & (np.indices((25, 25))[0] < 6)] = Role.VALIDATION
    return data


def trainer_of(problem: LabelledData, settings: Fit, seed: int = 0) -> Trainer:
    known = patches.describe_problem(problem)
    windows = Windows(problem.scenes, HALO, known.fill)
    torch.manual_seed(seed)
    return Trainer(
        methods.build("mf2cnet", known, OPTIONS),
        problem,
        windows,
        choose_settings(settings, windows, HALO, Defaults()),
        seed,
        torch.device("cpu"),
    )


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in trainer.method.state_dict().items()}


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def losses(trainer: Trainer) -> list[tuple[int, float, float | None]]:
    return [(e.epoch, e.loss, e.validation_kappa) for e in trainer.progress.history]


SHORT = Fit(epochs=4, batch=8)
DENSE = Fit(epochs=4, outputs=7, batch=4)


@pytest.mark.parametrize("settings", [SHORT, DENSE])
def test_same_seed_same_weights(problem: Any, settings: Fit) -> None:
    one, two = (trainer_of(problem, settings, 3) for _ in range(2))
    one.run()
    torch.manual_seed(99)
    two = trainer_of(problem, settings, 3)
    two.run()
    assert same(weights(one), weights(two))
    assert losses(one) == losses(two)
    other = trainer_of(problem, settings, 4)
    other.run()
    assert not same(weights(one), weights(other))


@pytest.mark.parametrize("settings", [SHORT, DENSE])
@pytest.mark.parametrize("stopped_after", [0, 1, 3, 4])
def test_interrupted_and_resumed_equals_uninterrupted(
    problem: Any, tmp_path: Path, settings: Fit, stopped_after: int
) -> None:
    whole = trainer_of(problem, settings)
    whole.run()

    first = trainer_of(problem, settings)
    state = tmp_path / "resume.pt"
    first.save(state)

    def save_and_stop(epoch: Epoch) -> None:
        first.save(state)
        if epoch.epoch == stopped_after:
            raise KeyboardInterrupt

    if stopped_after:
        with pytest.raises(KeyboardInterrupt):
            first.run(save_and_stop)
    torch.manual_seed(12345)  # another process begins elsewhere
    second = trainer_of(problem, settings, seed=0)
    torch.manual_seed(54321)
    second.load(state)
    second.run()
    assert same(weights(whole), weights(second))
    assert losses(whole) == losses(second)
    assert [p.name for p in tmp_path.iterdir()] == ["resume.pt"]


@pytest.mark.parametrize("total", [1, 2, 9, 10, 11, 20])
def test_any_number_of_steps_can_be_trained(problem: Any, total: int) -> None:
    trainer = trainer_of(problem, Fit(epochs=total, batch=18))  # all pixels: one step
    steps: list[int] = []
    trainer.run(after_step=lambda done, *_: steps.append(done))
    assert steps == list(range(1, total + 1))


@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "other", "pickle"])
def test_damaged_state_cannot_be_resumed(
    problem: Any, tmp_path: Path, damage: str
) -> None:
    import pickle

    trainer = trainer_of(problem, SHORT)
    path = tmp_path / "resume.pt"
    trainer.save(path)
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text("no state")
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "pickle":
        path.write_bytes(pickle.dumps({"method": print}))
    else:
        torch.save({"method": {}}, path)
    with pytest.raises(OutputError, match=r"resume\.pt cannot be resumed.*--overwrite"):
        trainer.load(path)


def scripted(
    monkeypatch: pytest.MonkeyPatch, trainer: Trainer, losses: list[float]
) -> list[dict[str, Tensor]]:
    """Let validation find these losses; return the weights it saw."""
    seen: list[dict[str, Tensor]] = []

    def measure() -> Measured:
        seen.append(weights(trainer))
        loss = losses[len(seen) - 1] if len(seen) <= len(losses) else 9.0
        return Measured(state=seen[-1], gate=Gate(1.0, loss), kappa=0.5, accuracy=0.5)

    monkeypatch.setattr(trainer, "_measure", measure)
    return seen


def test_least_loss_wins_and_ties_go_to_the_later(
    problem: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(problem, Fit(epochs=6, batch=18))
    seen = scripted(monkeypatch, trainer, [0.9, 0.4, 0.3, 0.6, 0.3, 0.5])
    trainer.run()
    assert trainer.progress.best_epoch == 5
    assert trainer.progress.best_loss == 0.3
    assert same(weights(trainer), seen[4])


def test_patience_stops(problem: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of(problem, Fit(epochs=30, batch=18, patience=2))
    scripted(monkeypatch, trainer, [0.9, 0.5, 0.6, 0.7, 0.1, 0.1])
    trainer.run()
    assert len(trainer.progress.history) == 4
    assert trainer.progress.best_epoch == 2


def test_training_goes_on_until_nothing_more_is_learned(
    problem: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "ROUND_STEPS", 2)
    trainer = trainer_of(problem, Fit(batch=18, patience=3))
    scripted(monkeypatch, trainer, [0.9, 0.8, 0.7, 0.6, 0.5999, 0.61, 0.7, 0.5, 0.4])
    trainer.run()
    # The fourth round is the last that is clearly better; three more show nothing, and
    # the rate then falls for three tenths of all steps.
    assert trainer.progress.improved == 9
    history = trainer.progress.history
    assert len(history) == 10
    steady = [epoch.learning_rate for epoch in history[1:6]]
    assert max(steady) <= history[6].learning_rate * (1 + 1e-6)
    falling = [epoch.learning_rate for epoch in history[6:]]
    assert all(a > b for a, b in pairwise(falling))
    assert falling[-1] == 0


def test_a_length_that_is_never_enough_ends(
    problem: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "ROUND_STEPS", 1)
    trainer = trainer_of(problem, Fit(batch=18))
    scripted(monkeypatch, trainer, [1 / n for n in range(1, 99)])
    trainer.run()
    assert len(trainer.progress.history) == MAX_ROUNDS + round(MAX_ROUNDS * 3 / 7)


def test_validation_tells_how_much_rare_classes_count(
    problem: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[np.ndarray] = []

    def choose(
        scores: np.ndarray, classes: np.ndarray, shares: np.ndarray, folds: np.ndarray
    ) -> float:
        assert folds.shape == classes.shape
        told.append(scores)
        np.testing.assert_allclose(np.exp(shares).sum(), 1, rtol=1e-5)
        return 0.75

    monkeypatch.setattr(trainer_module, "choose_factor", choose)
    trainer = trainer_of(problem, Fit(epochs=1))
    for _ in range(2):  # a run that is resumed when it is finished chooses again
        trainer.run()
    assert trainer.summary()["balance"] == 0.75
    np.testing.assert_array_equal(told[0], told[1])


def test_scoring_a_finished_training_leaves_it_finished(problem: Any) -> None:
    trainer = trainer_of(problem, Fit(epochs=1))
    trainer.run()
    trainer.score(Role.TEST)
    assert not any(module.training for module in trainer.method.modules())


def test_without_validation_the_mean_of_the_last_weights_stays(problem: Any) -> None:
    roles = problem.scenes[0].roles
    roles[roles == Role.VALIDATION] = Role.TEST
    trainer = trainer_of(problem, Fit(epochs=3, batch=18, patience=1))
    trainer.run()
    assert len(trainer.progress.history) == 3
    assert all(e.validation_kappa is None for e in trainer.progress.history)
    final, mean = weights(trainer), trainer.progress.mean
    assert mean is not None
    learned = [k for k in final if "running" not in k and "num_batches" not in k]
    assert all(torch.equal(final[k], mean[k]) for k in learned)
    assert not trainer.method.training


def test_measuring_does_not_change_the_training(problem: Any) -> None:
    """A trainer that measures ends at the same mean weights as one that does not."""
    measuring = trainer_of(problem, SHORT)
    measuring.run()
    roles = problem.scenes[0].roles
    roles[roles == Role.VALIDATION] = Role.NONE
    plain = trainer_of(problem, SHORT)
    plain.run()
    one, other = measuring.progress.mean, plain.progress.mean
    assert one is not None
    assert other is not None
    assert same(one, other)


def test_statistics_are_those_of_all_that_is_shown(
    make_data: MakeData, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(split.per_class(make_data(fields()), 6, 0), SHORT)
    trainer.run()
    method = trainer.method
    monkeypatch.setattr(method, "shown", lambda cube: torch.cat([cube, 3 * cube]))
    norm = next(m for m in method.network.modules() if isinstance(m, _BatchNorm))
    seen: list[Tensor] = []
    norm.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    trainer._settle()
    assert sum(map(len, seen)) == 2 * len(trainer._windows.training_pixels())
    means = [x.transpose(0, 1).flatten(1).mean(dim=1) for x in seen]
    torch.testing.assert_close(norm.running_mean, torch.stack(means).mean(dim=0))


def test_one_odd_patch_does_not_stop_training(make_data: MakeData) -> None:
    data = split.per_class(make_data(fields()), 3, 0)  # nine patches
    trainer = trainer_of(data, Fit(epochs=1, batch=8))
    trainer.run()
    assert math.isfinite(trainer.progress.history[0].loss)


def test_loss_that_is_no_number_stops_with_advice(
    problem: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(problem, SHORT)

    def broken(_: Any) -> Tensor:
        return sum(p.sum() for p in trainer.method.parameters()) * float("nan")  # type: ignore[return-value]

    monkeypatch.setattr(trainer.method, "loss", broken)
    with pytest.raises(RecipeError, match=r"loss became nan in epoch 1.*learning_rate"):
        trainer.run()


@pytest.mark.parametrize("settings", [SHORT, DENSE])
def test_steps_are_counted_to_the_end(problem: Any, settings: Fit) -> None:
    trainer = trainer_of(problem, settings)
    counted: list[tuple[int, int]] = []
    trainer.run(after_step=lambda done, steps, _: counted.append((done, steps)))
    assert [done for done, _ in counted] == list(range(1, counted[0][1] + 1))
    assert {steps for _, steps in counted} == {len(counted)}


def test_each_loss_steps_only_the_parameters_it_reaches(
    problem: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(problem, Fit(epochs=4, batch=18))
    method = trainer.method
    names = [n for n, _ in method.named_parameters()]
    first, second = names[0], names[1]
    seen: list[dict[str, Tensor]] = []

    def losses(_: Any) -> Iterator[Tensor]:
        for name in (first, second):
            seen.append({n: p.detach().clone() for n, p in method.named_parameters()})
            yield method.get_parameter(name).square().sum()
        seen.append({n: p.detach().clone() for n, p in method.named_parameters()})

    monkeypatch.setattr(method, "losses", losses)
    trainer.run()
    for before, after, changed in zip(
        seen[:2], seen[1:3], (first, second), strict=True
    ):
        assert [n for n in names if not torch.equal(before[n], after[n])] == [changed]


def test_method_knows_how_far_the_training_is(
    problem: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed run goes on counting."""
    settings = Fit(epochs=2, batch=9)  # 18 pixels: two steps in an epoch
    seen: list[float] = []

    def watched(trainer: Trainer) -> Trainer:
        method = trainer.method
        original = method.losses

        def losses(batch: Any) -> Iterator[Tensor]:
            seen.append(method.progress)
            return original(batch)

        monkeypatch.setattr(method, "losses", losses)
        return trainer

    first = watched(trainer_of(problem, settings))

    def stop(_: Epoch) -> None:
        first.save(tmp_path / "state")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        first.run(stop)
    second = watched(trainer_of(problem, settings))
    second.load(tmp_path / "state")
    second.run()
    assert seen == [0.0, 0.25, 0.5, 0.75]
