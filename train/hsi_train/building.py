"""Builds the method and its trainer, and finds how long to train without validation."""

import logging
from collections.abc import Callable
from pathlib import Path

import torch

from hsi_train import methods
from hsi_train.data.labelled_scene import LabelledData
from hsi_train.fitting import pretrain
from hsi_train.fitting.settings import Settings, choose_settings
from hsi_train.fitting.statistics import describe_problem
from hsi_train.fitting.trainer import Trainer
from hsi_train.fitting.windows import Windows
from hsi_train.linear import choice
from hsi_train.linear.choice import Linear
from hsi_train.linear.held_out import hold_out
from hsi_train.linear.spectra import training_pixels
from hsi_train.method import Problem
from hsi_train.recipe import Recipe

log = logging.getLogger(__name__)


def with_path(recipe: Recipe, data: LabelledData) -> tuple[Problem, Linear | None]:
    """Measure the training pixels; fit the linear path where it may be added.

    An encoder that was trained without labels is used alone, as it is published.

    Returns:
        Statistics with the path, and how it was fitted; None where there is none.
    """
    problem = describe_problem(data)
    kind = methods.method_class(recipe.method)
    options = methods.check_options(recipe.method, recipe.options)
    joins = kind.joins_path(options) and recipe.pretrain is None
    if not (recipe.fit.linear_path and joins):
        return problem, None
    pixels = training_pixels(
        data.scenes, problem.fill, len(data.classes), kind.receptive_field
    )
    linear = choice.fit_chosen(pixels, problem)
    log.info(choice.describe(linear.choice))
    return problem._replace(linear=linear.total), linear


def new_trainer(
    recipe: Recipe, data: LabelledData, problem: Problem, device: torch.device
) -> tuple[Trainer, Settings]:
    """Build the method and its trainer."""
    torch.manual_seed(recipe.seed)
    method = methods.build(recipe.method, problem, recipe.options)
    if isinstance(method, pretrain.Pretrainable):
        method.pretrained = recipe.pretrain is not None
    method.start_from_path()
    windows = Windows(data.scenes, method.halo, problem.fill)
    settings = choose_settings(recipe.fit, windows, method.halo, method.fit_defaults())
    return Trainer(method, data, windows, settings, recipe.seed, device), settings


def select(
    trainer: Trainer,
    recipe: Recipe,
    data: LabelledData,
    state: Path,
    after_step: Callable[[int, int, float], None],
) -> None:
    """Find length and gate on held-out training pixels, where none validate.

    A fold of them is left out of a first training; all then train as long. With few
    labels nothing can be held out, and the linear path is the safer map.

    Args:
        trainer: What will train on all pixels; its plan and gate are set.
        recipe: The recipe as it was given.
        data: Labelled scenes without validation pixels.
        state: File from which an interrupted first training continues.
        after_step: Called with finished steps, all steps and the loss.
    """
    path = trainer.method.path
    if recipe.pretrain is not None or not trainer.trains:
        return
    inner = hold_out(data)
    if inner is None:
        if path is not None:
            path.gate.fill_(0.0)
        return
    device = trainer.scorer.device
    problem, _ = with_path(recipe, inner)
    first, _ = new_trainer(recipe, inner, problem, device)
    first.origin = trainer.origin
    if state.is_file():
        first.load(state)
    else:
        first.prepare()
    first.run(lambda _: first.save(state), after_step)
    if recipe.fit.epochs is None:
        trainer.plan(len(first.progress.history))
    if path is not None and first.method.path is not None:
        path.gate.copy_(first.method.path.gate)
    state.unlink(missing_ok=True)
    torch.manual_seed(recipe.seed)
