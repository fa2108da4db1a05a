from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hsi_runtime.errors import RecipeError
from hsi_train import building, recipe
from hsi_train.data.labelled_scene import LabelledData
from hsi_train.data.roles import Role
from hsi_train.fitting import trainer as trainers
from hsi_train.fitting.length import schedule
from hsi_train.fitting.length.budget import Budget
from hsi_train.fitting.progress import Watch
from hsi_train.fitting.trainer import Trainer

MakeData = Callable[..., LabelledData]
CPU = torch.device("cpu")
SMALL = {"features": 4, "hidden": 4}


def recipe_of(**fit: Any) -> recipe.Recipe:
    data = {"scenes": ["s.tif"], "labels": ["l.tif"]}
    content = {"method": "mf2cnet", "data": data, "options": SMALL, "fit": fit}
    return recipe.parse(content)


def divided(make_data: MakeData, train: float) -> LabelledData:
    rng = np.random.default_rng(1)
    codes = np.kron(rng.integers(1, 4, (10, 10)), np.ones((5, 5), dtype=int))
    roles = np.where(rng.random(codes.shape) < train, Role.TRAIN, Role.TEST)
    return make_data(codes).divided([roles.astype(np.uint8)])


def trainer_of(wanted: recipe.Recipe, data: LabelledData) -> Trainer:
    return building.new_trainer(wanted, data, building.with_path(wanted, data)[0], CPU)[
        0
    ]


def test_few_labels_are_mapped_by_the_linear_path(
    make_data: MakeData, tmp_path: Path
) -> None:
    wanted, data = recipe_of(epochs=1), divided(make_data, 0.02)
    trainer = trainer_of(wanted, data)
    building.select(trainer, wanted, data, tmp_path / "first.pt")
    assert trainer.shut_out is not None
    assert trainer.summary()["gate"] == 0
    assert trainer.method.with_path(trainer.method.network) is trainer.method.path


def test_with_few_labels_a_network_that_bears_changes_shares_the_map(
    make_data: MakeData, tmp_path: Path
) -> None:
    wanted, data = s2amsnet(spectral_randomisation=True), divided(make_data, 0.02)
    trainer = trainer_of(wanted, data)
    building.select(trainer, wanted, data, tmp_path / "first.pt")
    assert trainer.shut_out is None
    assert trainer.trains
    assert trainer.summary()["gate"] == 0.5


def test_length_and_gate_come_from_held_out_pixels(
    make_data: MakeData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "ROUND_STEPS", 1)
    monkeypatch.setattr(trainers, "SETTLING", 1)
    wanted, data = recipe_of(), divided(make_data, 0.4)
    trainer = trainer_of(wanted, data)
    before = trainer.progress.last
    state = tmp_path / "first.pt"
    steps: list[int] = []
    watch = Watch(step=lambda done, *_: steps.append(done))
    building.select(trainer, wanted, data, state, watch)
    assert before == schedule.UNCHECKED_ROUNDS
    assert trainer.progress.last == len(steps)
    assert not state.exists()
    assert trainer.progress.history == []
    held = sum(int((s.roles == Role.VALIDATION).sum()) for s in data.scenes)
    assert held == 0, "the first training has its own roles"


def test_first_training_goes_on_where_it_stopped(
    make_data: MakeData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainers, "SETTLING", 1)
    wanted, data = recipe_of(epochs=3, batch=100), divided(make_data, 0.4)
    whole = trainer_of(wanted, data)
    state = tmp_path / "first.pt"
    building.select(whole, wanted, data, state)

    def stop(done: int, *_: Any) -> None:
        if state.is_file():  # after the first round
            raise KeyboardInterrupt

    second = trainer_of(wanted, data)
    with pytest.raises(KeyboardInterrupt):
        building.select(second, wanted, data, state, Watch(step=stop))
    assert state.is_file()
    second = trainer_of(wanted, data)
    building.select(second, wanted, data, state)
    assert second.summary() == whole.summary()
    assert not state.exists()


def test_the_paper_s_network_alone_has_no_path(make_data: MakeData) -> None:
    wanted, data = recipe_of(epochs=1, linear_path=False), divided(make_data, 0.2)
    trainer = trainer_of(wanted, data)
    assert trainer.method.path is None
    assert trainer.shut_out is None
    assert trainer.summary()["gate"] is None


def s2amsnet(**options: Any) -> recipe.Recipe:
    data = {"scenes": ["s"], "labels": ["l"]}
    return recipe.parse({"method": "s2amsnet", "data": data, "options": options})


def test_generators_exclude_the_path(make_data: MakeData) -> None:
    data = divided(make_data, 0.2)
    assert building.with_path(s2amsnet(generators=True), data)[0].linear is None
    assert building.with_path(s2amsnet(), data)[0].linear is not None


def test_a_pre_trained_encoder_has_the_path_beside_it(make_data: MakeData) -> None:
    content = {
        "method": "s2former",
        "data": {"scenes": ["s"], "labels": ["l"]},
        "pretrain": {"scenes": ["other"]},
    }
    asked, data = recipe.parse(content), divided(make_data, 0.02)
    trainer = trainer_of(asked, data)
    building.select(trainer, asked, data, Path("unused"))
    assert trainer.method.path is not None
    assert float(trainer.method.path.gate) == 1


def pretrained() -> recipe.Recipe:
    content = {
        "method": "s2former",
        "data": {"scenes": ["s"], "labels": ["l"]},
        "pretrain": {"init": "encoder"},
    }
    return recipe.parse(content)


def test_a_fitted_head_is_weighed_by_all_folds(
    make_data: MakeData, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, data = pretrained(), divided(make_data, 0.02)
    trainer = trainer_of(asked, data)
    trainer.prepare()
    judged: list[tuple[Any, ...]] = []

    def choose(path: Any, head: Any, classes: Any) -> float:
        judged.append((path, head, classes))
        return 0.25

    monkeypatch.setattr(building, "choose_share", choose)
    building.weigh_fitted_head(trainer, asked, data)
    ((path, head, classes),) = judged
    counts = data.pixels_by_role()[:, Role.TRAIN]
    assert np.bincount(classes).tolist() == counts.tolist()
    assert path.shape == head.shape == (len(classes), 3)
    assert np.abs(head).max() > 0.1
    of_method = trainer.method.path
    assert of_method is not None
    assert of_method.apart
    assert float(of_method.gate) == 0.25
    assert of_method.unjudged == tuple(np.flatnonzero(counts == 0))


def test_a_fitted_head_shares_equally_where_nothing_can_be_left_out(
    make_data: MakeData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head had all of the map, and the path nothing."""
    monkeypatch.setattr(building, "leave_out", lambda _: iter(()))
    asked, data = pretrained(), divided(make_data, 0.02)
    trainer = trainer_of(asked, data)
    trainer.prepare()
    building.weigh_fitted_head(trainer, asked, data)
    assert trainer.method.path is not None
    assert not trainer.method.path.replaced
    assert trainer.summary()["gate"] == 0.5


def test_a_head_of_three_labels_a_class_has_a_say(
    make_data: MakeData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "choose_share", lambda *_: 0.5)
    asked, data = pretrained(), divided(make_data, 1.0)
    (scene,) = data.scenes
    roles = np.full(scene.roles.shape, Role.TEST, np.uint8)
    for index in range(3):
        places = np.argwhere(scene.classes == index)
        roles[tuple(places[:: len(places) // 3][:3].T)] = Role.TRAIN
    few = data.divided([roles])
    assert few.pixels_by_role()[:, Role.TRAIN].tolist() == [3, 3, 3]
    trainer = trainer_of(asked, few)
    trainer.prepare()
    building.weigh_fitted_head(trainer, asked, few)
    assert trainer.method.path is not None
    assert trainer.method.path.unjudged == ()


def test_nothing_is_weighed_where_a_network_trains(make_data: MakeData) -> None:
    wanted, data = recipe_of(epochs=1), divided(make_data, 0.02)
    trainer = trainer_of(wanted, data)
    building.weigh_fitted_head(trainer, wanted, data)
    assert trainer.summary()["gate"] == 1


def lines(make_data: MakeData, roles: tuple[Role, ...]) -> LabelledData:
    """Build classes that differ by one narrow line, below what bands may err by."""
    rng = np.random.default_rng(0)
    codes = np.kron(rng.integers(1, 4, (8, 8)), np.ones((3, 3), dtype=int))
    cube = np.full((30, *codes.shape), 1000.0)
    cube += rng.normal(0, 0.02, cube.shape)
    for code in (1, 2, 3):
        cube[5 * code, codes == code] += 0.3
    data = make_data(codes, bands=30, cubes=[cube.astype(np.float32)])
    drawn = rng.choice(np.array(roles, dtype=np.uint8), codes.shape)
    return data.divided([drawn])


ROLES = [(Role.TRAIN,), (Role.TRAIN, Role.VALIDATION)]


@pytest.mark.parametrize("roles", ROLES)
def test_changes_are_not_learned_where_the_scene_would_pay(
    make_data: MakeData, roles: tuple[Role, ...]
) -> None:
    decided, message = building.decided(s2amsnet(), lines(make_data, roles))
    assert building.bears_changes(decided) == 0
    assert message is not None
    assert "not learned" in message
    assert "spectral_randomisation=true" in message


@pytest.mark.parametrize("roles", ROLES)
def test_changes_are_learned_where_they_cost_little(
    make_data: MakeData, roles: tuple[Role, ...]
) -> None:
    rng = np.random.default_rng(0)
    codes = np.kron(rng.integers(1, 4, (8, 8)), np.ones((3, 3), dtype=int))
    data = make_data(codes, bands=30)
    drawn = rng.choice(np.array(roles, dtype=np.uint8), codes.shape)
    decided, message = building.decided(s2amsnet(), data.divided([drawn]))
    assert building.bears_changes(decided) == 1
    assert message is not None
    assert "learned, too" in message


@pytest.mark.parametrize(
    ("accuracies", "pixels", "strength"),
    [
        ((0.978, 0.967), 60, 1),  # one pixel
        ((0.978, 0.969), 100_000, 1),  # below the price
        ((0.95, 0.93, 0.93, 0.93, 0.93), 100_000, 0),
        ((0.93, 0.67, 0.7, 0.8, 0.82), 60, 0),
        ((0.97, 0.94, 0.945, 0.953), 500, 0.25),
    ],
)
def test_the_strongest_changes_are_learned_whose_price_is_not_beyond_chance(
    make_data: MakeData,
    monkeypatch: pytest.MonkeyPatch,
    accuracies: tuple[float, ...],
    pixels: int,
    strength: float,
) -> None:
    shares = iter(accuracies)
    monkeypatch.setattr(
        building, "_linear_accuracy", lambda *_: building.Held(next(shares), pixels)
    )
    decided, _ = building.decided(s2amsnet(), divided(make_data, 0.2))
    assert building.bears_changes(decided) == strength
    assert not list(shares)


def test_a_given_strength_is_the_only_one_that_is_tried(make_data: MakeData) -> None:
    asked = s2amsnet(randomisation_strength=0.3)
    decided, _ = building.decided(asked, lines(make_data, (Role.TRAIN,)))
    assert building.bears_changes(decided) in (0, 0.3)


@pytest.mark.parametrize(
    "options", [{"generators": True}, {"spectral_randomisation": False}]
)
def test_what_the_recipe_says_is_not_decided(
    make_data: MakeData, options: dict[str, Any]
) -> None:
    asked = s2amsnet(**options)
    assert building.decided(asked, divided(make_data, 0.2)) == (asked, None)


def test_the_phase_is_told_when_it_begins(
    make_data: MakeData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainers, "SETTLING", 1)
    wanted, data = recipe_of(epochs=1, outputs=1, batch=50), divided(make_data, 0.4)
    trainer = trainer_of(wanted, data)
    told: list[str] = []
    watch = Watch(phase=told.append)
    building.select(trainer, wanted, data, tmp_path / "first.pt", watch)
    building.run(trainer, lambda _: None, watch)
    names = ["warm-up", "steady", "decay"]
    assert told == [*(f"held-out training, {name}" for name in names), *names]
    phases = trainer.summary()["phases"]
    assert sum(phases.values()) == trainer.progress.steps + phases["held_out"]
    assert min(phases.values()) > 0


def test_a_budget_is_shared_by_both_trainings(
    make_data: MakeData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainers, "SETTLING", 1)
    wanted, data = recipe_of(budget="60s"), divided(make_data, 0.4)
    now = [0.0]
    budget = Budget(60, lambda: now[0])
    trainer = trainer_of(wanted, data)

    def step(*_: Any) -> None:
        now[0] += 3

    watch = Watch(step=step)
    building.select(trainer, wanted, data, tmp_path / "first.pt", watch, budget)
    held_out = trainer.progress.held_out
    assert 1 <= held_out <= 10
    assert trainer.progress.last is None
    assert trainer.progress.verdict == "still improving when the time was up"
    used = budget.used
    assert used == 3 * held_out
    trainer.allow(budget)
    assert budget.used == used
    state = tmp_path / "state.pt"

    def stop(*_: Any) -> None:
        step()
        if trainer.progress.steps == 2:
            trainer.save(state)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        building.run(trainer, lambda _: None, Watch(step=stop))
    used = budget.used
    again = trainer_of(wanted, data)
    again.load(state)
    now[0] += 1000  # what lies between the two runs is no training
    later = Budget(60, lambda: now[0])
    again.allow(later)
    assert later.used == used
    building.run(again, lambda _: None, watch)
    assert again.summary()["stop_reason"] == "budget"
    assert again.summary()["phases"]["held_out"] == held_out
    assert later.used == 3 * (held_out + again.progress.steps)
    assert later.used <= 63


def test_what_comes_after_is_estimated_without_a_trace(make_data: MakeData) -> None:
    wanted, data = recipe_of(epochs=1), divided(make_data, 0.4)
    trainer = trainer_of(wanted, data)
    trainer.method.train()
    before = {k: v.clone() for k, v in trainer.method.state_dict().items()}
    random = torch.get_rng_state()
    budget = Budget(600)
    building.reserve(trainer, data, budget)
    assert budget.reserve > building.REPORTING_S
    assert torch.equal(torch.get_rng_state(), random)
    after = trainer.method.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_a_method_in_closed_form_takes_no_epochs(make_data: MakeData) -> None:
    data = divided(make_data, 0.2)
    content = {"method": "lda", "data": {"scenes": ["s"], "labels": ["l"]}}
    trainer_of(recipe.parse(content), data)
    with pytest.raises(RecipeError, match=r"epochs is 7, but lda .*Leave out --epochs"):
        trainer_of(recipe.parse(content | {"fit": {"epochs": 7}}), data)
