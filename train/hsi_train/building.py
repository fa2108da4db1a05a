"""Builds the method and its trainer, and finds how long to train without validation."""

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import torch

from hsi_runtime.errors import RecipeError
from hsi_train import methods
from hsi_train.data.labelled_scene import LabelledData
from hsi_train.data.roles import Role
from hsi_train.fitting import pretrain
from hsi_train.fitting.length.budget import TINY, Budget
from hsi_train.fitting.predict import Scorer, count_tiles
from hsi_train.fitting.progress import HELD_OUT, TIME_UP, UNWATCHED, Epoch, Watch
from hsi_train.fitting.settings import Settings, choose_settings
from hsi_train.fitting.statistics import describe_problem
from hsi_train.fitting.trainer import Trainer
from hsi_train.fitting.windows import Windows
from hsi_train.linear import choice
from hsi_train.linear.choice import Linear
from hsi_train.linear.gate import choose_share
from hsi_train.linear.held_out import hold_out, leave_out
from hsi_train.linear.spectra import (
    TrainingPixels,
    bearing_changes,
    training_pixels,
)
from hsi_train.measuring import metrics
from hsi_train.method import Problem
from hsi_train.processes.group import of_first
from hsi_train.recipe import Recipe, expanded, training_seed

log = logging.getLogger(__name__)

FIRST_SHARE = 0.5  # of a budget, for the training that finds the length
REPORTING_S = 8.0  # seconds of a report beside the maps
BEARING = "spectral_randomisation"  # option of a method that may bear changes
STRENGTH = "randomisation_strength"  # and how strong they are
STRENGTHS = (1.0, 0.5, 0.25, 0.125)  # tried in turn
EQUAL = 0.5  # gate of a network beside the path, where nothing can be held out
MAX_PRICE = 0.01  # share of the held-out pixels that bearing changes may cost


class Held(NamedTuple):
    """What the linear path has right of pixels that it was not fitted on.

    Attributes:
        accuracy: Share of them.
        pixels: How many there are.
    """

    accuracy: float
    pixels: int

    @property
    def variance(self) -> float:
        """Variance of the share, as of pixels drawn one by one."""
        return self.accuracy * (1 - self.accuracy) / max(self.pixels, 1)


def bears_changes(recipe: Recipe) -> float | None:
    """Return how strong the changes are that the map shall bear, None if open."""
    options = methods.check_options(recipe.method, recipe.options)
    return methods.method_class(recipe.method).bears_changes(options)


def decided(recipe: Recipe, data: LabelledData) -> tuple[Recipe, str | None]:
    """Decide from held-out pixels what changes of sensor and sky the map shall bear.

    What bears them is blind to what they look like. Where the classes differ by just
    that, the scene itself would be mapped worse: the linear path tells by how much, in
    seconds, on the validation pixels or on folds of the training pixels. Of few pixels,
    one alone may be more than the price: it counts beyond its standard error only.

    Returns:
        The recipe, with the options set where they were left open, and a sentence where
        they were.
    """
    if bears_changes(recipe) is not None:
        return recipe, None
    problem = describe_problem(data)
    pixels = _linear_pixels(recipe, data, problem)
    before = _linear_accuracy(pixels, problem, data)
    given = recipe.options.get(STRENGTH)
    strengths = STRENGTHS if given is None else (given,)
    if before is None:
        return _bearing(recipe, strengths[0]), None
    told = ""
    for strength in strengths:
        seen = bearing_changes(pixels, problem.level, strength)
        after = _linear_accuracy(seen, problem, data)
        assert after is not None
        shares = f"{100 * after.accuracy:.1f} instead of {100 * before.accuracy:.1f} %"
        told = f"{shares} of the held-out pixels"
        error = math.sqrt(before.variance + after.variance)
        if before.accuracy - after.accuracy <= MAX_PRICE + error:
            return _bearing(recipe, strength), (
                f"Changes of sensor and sky are learned, too, at {strength:.0%} of "
                f"their full size: {told} are right."
            )
    return _bearing(recipe, 0), (
        f"Changes of sensor and sky are not learned: the scene itself would be "
        f"mapped worse ({told}, by the linear path). Do not expect this model to "
        f"map other days or places well; options.{BEARING}=true learns them anyway."
    )


def _bearing(recipe: Recipe, strength: float) -> Recipe:
    """Set what changes the map shall bear; 0 for none."""
    options = {BEARING: strength > 0} | ({STRENGTH: strength} if strength else {})
    return msgspec.structs.replace(recipe, options=recipe.options | options)


def _linear_accuracy(
    pixels: TrainingPixels, problem: Problem, data: LabelledData
) -> Held | None:
    """Measure the linear path on held-out pixels; None without any."""
    chosen = choice.choose(pixels)
    if not any((scene.roles == Role.VALIDATION).any() for scene in data.scenes):
        if chosen.accuracy is None:
            return None
        return Held(chosen.accuracy, len(pixels.classes))
    fit = choice.fit(pixels, chosen.shares, problem)
    scorer = Scorer.of_linear(fit, problem, torch.device("cpu"))
    matrix = scorer.score(data, Role.VALIDATION).confusion()
    return Held(metrics.overall_accuracy(matrix), int(matrix.sum()))


def _linear_pixels(
    recipe: Recipe, data: LabelledData, problem: Problem
) -> TrainingPixels:
    """Collect the training pixels as a method's linear path may see them."""
    side = methods.method_class(recipe.method).receptive_field
    if data.spectra is not None:
        side = 1  # what lies beside a spectrum is no neighbour
    return training_pixels(data.scenes, problem.fill, len(data.classes), side)


def with_path(recipe: Recipe, data: LabelledData) -> tuple[Problem, Linear | None]:
    """Measure the training pixels; fit the linear path where it may be added.

    Returns:
        Statistics with the path, and how it was fitted; None where there is none.
    """
    problem = describe_problem(data)
    kind = methods.method_class(recipe.method)
    options = methods.check_options(recipe.method, recipe.options)
    if not (recipe.fit.linear_path and kind.joins_path(options)):
        return problem, None
    pixels = _linear_pixels(recipe, data, problem)
    strength = bears_changes(recipe)
    if data.spectra is not None:
        # Another sensor, under another sky, saw the scenes that they will map.
        strength = 1.0
    if strength:
        pixels = bearing_changes(pixels, problem.level, strength)
    linear = choice.fit_chosen(pixels, problem)
    log.info(choice.describe(linear.choice))
    return problem._replace(linear=linear.total), linear


def new_trainer(
    recipe: Recipe, data: LabelledData, problem: Problem, device: torch.device
) -> tuple[Trainer, Settings]:
    """Build the method and its trainer.

    Raises:
        RecipeError: Epochs for a method that is fitted in closed form.
    """
    torch.manual_seed(training_seed(recipe))
    method = methods.build(recipe.method, problem, recipe.options)
    if isinstance(method, pretrain.Pretrainable):
        method.pretrained = recipe.pretrain is not None
    method.start_from_path()
    windows = Windows(data.scenes, method.halo, problem.fill)
    settings = choose_settings(recipe.fit, windows, method.halo, method.fit_defaults())
    if settings.epochs and not any(p.requires_grad for p in method.parameters()):
        raise RecipeError(
            f"fit.epochs is {settings.epochs}, but {recipe.method} is fitted in closed "
            "form. Leave out --epochs."
        )
    seed = training_seed(recipe)
    return Trainer(method, data, windows, settings, seed, device), settings


def open_pretraining(
    recipe: Recipe, trainer: Trainer
) -> pretrain.Pretrainer | pretrain.Reuse | None:
    """Read what the encoder comes from, or return None where it starts at random."""
    settings, method = recipe.pretrain, trainer.method
    if settings is None or not isinstance(method, pretrain.Pretrainable):
        return None
    if settings.init is not None:
        return pretrain.Reuse(Path(expanded(settings.init)), method, recipe.method)
    paths = [expanded(p) for p in settings.scenes]
    side = settings.outputs + 2 * method.halo
    sources = pretrain.read_sources(paths, side, log.warning)
    return pretrain.Pretrainer(
        method,
        recipe.method,
        sources,
        settings,
        training_seed(recipe),
        trainer.scorer.device,
        trainer.origin,
    )


def select(
    trainer: Trainer,
    recipe: Recipe,
    data: LabelledData,
    state: Path,
    watch: Watch = UNWATCHED,
    budget: Budget | None = None,
) -> None:
    """Find length, gate and balance on held-out training pixels, where none validate.

    A fold of them is left out of a first training; all then train as long. With few
    labels nothing can be held out, and the linear path is the safer map; a network that
    was trained by itself shares it equally, for what both bear is borne better. Of a
    budget the first training gets a half; if that ends it, the other half ends the
    second.

    Args:
        trainer: What will train on all pixels; its plan, gate and balance are set.
        recipe: The recipe as it was given.
        data: Labelled scenes without validation pixels.
        state: File from which an interrupted first training continues.
        watch: What is told how it goes on.
        budget: Time that both trainings may take.
    """
    path = trainer.method.path
    if recipe.pretrain is not None or recipe.fit.quick or not trainer.trains:
        return
    inner = hold_out(data)
    if inner is None:
        if path is not None:
            path.gate.fill_(EQUAL if path.apart else 0.0)
        return
    device = trainer.scorer.device
    problem, _ = with_path(recipe, inner)
    first, _ = new_trainer(recipe, inner, problem, device)
    first.origin = trainer.origin
    if state.is_file():
        first.load(state)
    else:
        first.prepare()
    if budget is not None:
        first.allow(budget, FIRST_SHARE)
    run(first, lambda _: first.save(state), watch, "held-out training, ")
    progress = trainer.progress
    if first.progress.stop == TIME_UP:
        trainer.schedule.train_until_time_is_up()
    elif recipe.fit.epochs is None:
        trainer.schedule.plan(len(first.progress.history), HELD_OUT)
    progress.held_out = first.progress.steps
    if budget is not None:
        progress.verdict = first.schedule.verdict
    if path is not None and first.method.path is not None:
        path.gate.copy_(first.method.path.gate)
        path.unjudged = first.method.path.unjudged
    trainer.method.probabilities.balance.copy_(first.method.probabilities.balance)
    state.unlink(missing_ok=True)
    torch.manual_seed(training_seed(recipe))


def weigh_fitted_head(trainer: Trainer, recipe: Recipe, data: LabelledData) -> None:
    """Choose how much a head that was fitted on a pre-trained encoder counts.

    Head and linear path are fitted without each fold of the training pixels in turn,
    and both score it. The head knows nothing of the path: the more it counts, the less
    the path does. Where nothing can be left out both count equally, and a class of
    which nothing was is the path's to say.
    """
    path, method = trainer.method.path, trainer.method
    if path is None or trainer.trains or not isinstance(method, pretrain.Pretrainable):
        return
    parts = []
    for inner in leave_out(data):
        problem, _ = with_path(recipe, inner)
        judge, _ = new_trainer(recipe, inner, problem, trainer.scorer.device)
        assert isinstance(judge.method, pretrain.Pretrainable)
        judge.method.encoder.load_state_dict(method.encoder.state_dict())
        judge.prepare()
        parts.append(judge.held_out_scores())
    path.apart = True
    if not parts:
        path.gate.fill_(EQUAL)
        return
    alone, head, classes = map(np.concatenate, zip(*parts, strict=True))
    path.gate.fill_(choose_share(alone, head, classes))
    left_out = np.bincount(classes, minlength=head.shape[1])
    path.unjudged = tuple(np.flatnonzero(left_out == 0).tolist())


def run(
    trainer: Trainer,
    after_epoch: Callable[[Epoch], None],
    watch: Watch,
    prefix: str = "",
) -> None:
    """Train to the end; tell which phase a step belongs to, after a prefix."""
    told: list[str] = []

    def after_step(done: int, steps: int, loss: float) -> None:
        phase = prefix + trainer.schedule.phase
        if [phase] != told:
            told[:] = [phase]
            watch.phase(phase)
        watch.step(done, steps, loss)

    def epoch_done(epoch: Epoch) -> None:
        after_epoch(epoch)
        watch.epoch(epoch)

    trainer.run(epoch_done, after_step)


def reserve(trainer: Trainer, data: LabelledData, budget: Budget) -> None:
    """Set aside what measuring and reporting will take, by the time of one tile.

    A report takes longer where other programs share the cores: by as much as the tile.
    """
    scorer, scenes = trainer.scorer, data.scenes
    one = scenes[0].valid & False
    one[0, 0] = True
    trainer.method.eval()
    scorer.classes(scenes[0], one)  # builds what later tiles use
    began, worked = time.monotonic(), time.process_time()
    scorer.classes(scenes[0], one)
    tile = time.monotonic() - began
    slower = max(tile / max(time.process_time() - worked, TINY), 1.0)
    tiles = sum(count_tiles(s.valid) + 2 * count_tiles(s.roles > 0) for s in scenes)
    budget.reserve = of_first(slower * REPORTING_S + tile * tiles)
