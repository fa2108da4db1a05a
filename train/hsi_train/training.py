"""The whole way from a recipe to a run folder, on one screen."""

import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import torch

from hsi_runtime.errors import RecipeError
from hsi_train import finishing, methods
from hsi_train.building import (
    new_trainer,
    open_pretraining,
    reserve,
    select,
    weigh_fitted_head,
)
from hsi_train.building import run as run_to_end
from hsi_train.finishing import Evidence
from hsi_train.fitting import encoder_file, pretrain
from hsi_train.fitting.device import memory_explained, torch_device
from hsi_train.fitting.length.budget import Budget
from hsi_train.fitting.progress import LEFT_OUT, UNWATCHED, Epoch, Watch
from hsi_train.fitting.trainer import Trainer
from hsi_train.inputs import Inputs, read
from hsi_train.processes import group
from hsi_train.processes.launch import rank
from hsi_train.recipe import Fit, Recipe, seconds_of, training_seed
from hsi_train.run_folder import folder, origin
from hsi_train.run_folder.scalars import scalars

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What is to be trained, and where.

    Attributes:
        recipe: The recipe as it was given.
        run: Folder to write.
        device: Where training runs.
        resume: Continue an interrupted run.
        overwrite: Replace a run that is there.
    """

    recipe: Recipe
    run: Path
    device: torch.device
    resume: bool
    overwrite: bool


@memory_explained()
def train(
    recipe: Recipe,
    run: Path,
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
    watch: Watch = UNWATCHED,
    evidence: Evidence | None = None,
) -> dict[str, Any]:
    """Train one method and write its run folder.

    Args:
        recipe: The recipe; what it leaves open is chosen from the data.
        run: Folder to write.
        device: ``auto``, ``cpu`` or ``cuda``.
        resume: Continue an interrupted run of the same recipe.
        overwrite: Replace a run that is there.
        watch: What is told how the training goes on.
        evidence: What folds found, for a model that is trained on all labels.

    Returns:
        The content of ``metrics.json``; nothing in a process that torchrun started
        beside the first.

    Raises:
        HsiError: Any of its kinds; an unusable input leaves nothing in ``run``.
    """
    started = time.monotonic()
    with group.together(torch_device(device)) as where:
        with group.agreed():
            job = check(recipe, run, where, resume, overwrite)
            _check_single(recipe, evidence)
            inputs = read(recipe)
            job = replace(job, recipe=inputs.recipe)
            trainer, resolved = build(job, inputs)
        with group.folder(run, folder.RESUMED) as own:
            job = replace(job, run=own)
            # A resumed run took what its finished epochs took, too.
            started -= fit(job, inputs, resolved, trainer, watch, evidence)
    if rank() > 0:
        return {}
    trained = finishing.trained(trainer)
    if evidence is None:
        result = finishing.measure(recipe, run, inputs, trained)
    else:
        result = finishing.take_over(recipe, inputs, trained, evidence)
    finishing.write(resolved, run, inputs, trained, result, started)
    return result


def check(
    recipe: Recipe, run: Path, device: torch.device, resume: bool, overwrite: bool
) -> Job:
    """Refuse a job that cannot be done, before anything is read."""
    if rank() == 0:
        folder.check_folder(run, resume, overwrite)
        if overwrite:
            folder.check_inputs(run, recipe)
    kind = methods.method_class(recipe.method)
    methods.check_options(recipe.method, recipe.options)
    if recipe.data.spectra is not None and not kind.takes_spectra:
        raise RecipeError(
            f"{recipe.method} learns from the pixels around each pixel, which spectra "
            "have not. Train lda, or give --scene and --labels."
        )
    if recipe.pretrain is not None and not issubclass(kind, pretrain.Pretrainable):
        raise RecipeError(
            f"{recipe.method} has no encoder to pre-train; leave out "
            "--pretrain-scene, --init and [pretrain]."
        )
    return Job(
        recipe=recipe, run=run, device=device, resume=resume, overwrite=overwrite
    )


def _check_single(recipe: Recipe, evidence: Evidence | None) -> None:
    """Refuse a recipe of several runs, and one that leaves no pixel to measure on."""
    if recipe.members > 1 or (recipe.split.folds and recipe.split.fold is None):
        raise RecipeError(
            "A recipe with folds or members is several runs already. Leave out --seeds."
        )
    if (recipe.split.mode == "all") != (evidence is not None):
        raise RecipeError(
            "split.mode 'all' leaves no test pixel. Use split.mode 'folds', which "
            "measures such a model and trains it at the end."
        )


def build(job: Job, inputs: Inputs) -> tuple[Trainer, Recipe]:
    """Build the method and its trainer, and complete the recipe."""
    recipe = job.recipe
    trainer, settings = new_trainer(recipe, inputs.data, inputs.problem, job.device)
    # No epoch is the method's choice, not one that a recipe may ask for.
    chosen = msgspec.structs.asdict(settings) | {"epochs": settings.epochs or None}
    resolved = msgspec.structs.replace(
        recipe,
        fit=Fit(**chosen),
        options=methods.all_options(recipe.method, recipe.options),
    )
    trainer.origin = origin.origin_of(resolved, inputs.digests, trainer.precision)
    return trainer, resolved


def fit(
    job: Job,
    inputs: Inputs,
    resolved: Recipe,
    trainer: Trainer,
    watch: Watch,
    evidence: Evidence | None,
) -> float:
    """Train to the end, or from where an interrupted run stopped.

    Returns:
        Seconds that the epochs of the interrupted run took.
    """
    run, state = job.run, job.run / folder.STATE
    given = job.recipe.fit.budget
    budget = None if given is None else Budget(seconds_of(given))
    begun = job.resume and state.is_file()
    pretraining = None if begun else open_pretraining(job.recipe, trainer)
    folder.prepare_folder(run, resolved, job.resume, job.overwrite)
    if budget is not None:
        reserve(trainer, inputs.data, budget)
    if begun:
        trainer.load(state)
    else:
        if pretraining is not None:
            pretraining.run(run, job.resume, watch.step)
            # A run from the encoder just kept, by --init, is the same from here on.
            torch.manual_seed(training_seed(job.recipe))
        trainer.prepare()
        weigh_fitted_head(trainer, job.recipe, inputs.data)
        if evidence is not None:
            evidence.apply(trainer)
        elif not trainer.validates:
            state_of_first = run / folder.FIRST_STATE
            select(trainer, job.recipe, inputs.data, state_of_first, watch, budget)
        if trainer.left_out and job.recipe.fit.epochs is None:
            trainer.schedule.plan(0, LEFT_OUT)
    if budget is not None:
        trainer.allow(budget)
    if not begun:
        # So that an interruption in the first epoch can be resumed.
        trainer.save(state)
    # A crash may have come between the two states.
    (run / encoder_file.PRETRAIN_STATE).unlink(missing_ok=True)
    history = trainer.progress.history
    finished, earlier = len(history), sum(epoch.seconds for epoch in history)
    folder.write_history(run / "history.csv", history)
    with scalars(run / folder.TENSORBOARD, finished) as write_scalars:

        def epoch_done(epoch: Epoch) -> None:
            trainer.save(state)
            folder.write_history(run / "history.csv", trainer.progress.history)
            write_scalars(epoch)

        run_to_end(trainer, epoch_done, watch)
    return earlier
