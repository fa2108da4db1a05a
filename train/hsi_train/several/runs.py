"""The folders of several runs: each is an ordinary run, and is trained only once."""

import json
import logging
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch

from hsi_runtime import command_line
from hsi_runtime.errors import OutputError, RecipeError, ResourceError
from hsi_runtime.machine import usable_cores
from hsi_train import training
from hsi_train.finishing import Evidence
from hsi_train.fitting.progress import UNWATCHED, Watch
from hsi_train.processes.launch import started
from hsi_train.recipe import Recipe, seconds_of
from hsi_train.run_folder import checkpoint
from hsi_train.run_folder import folder as run_folder
from hsi_train.run_folder.origin import by_name, digests, stamps, training_files

log = logging.getLogger(__name__)
REPORT = "report.html"
Digests = dict[str, str]


@dataclass(frozen=True)
class Kind:
    """What kind of runs a folder holds.

    Attributes:
        option: Option of hsi-train that makes them.
        pattern: Names of the runs' folders.
        summary: Name of the file that sums them up.
    """

    option: str
    pattern: str
    summary: str


class Part(NamedTuple):
    """One of the runs: name of its folder, and its recipe."""

    name: str
    recipe: Recipe


def turns_of(count: int, workers: int) -> int:
    """Return how many trainings come one after another."""
    return -(-count // workers)


def with_shared_budget(recipe: Recipe, turns: int) -> Recipe:
    """Divide a budget equally among trainings that come one after another."""
    if recipe.fit.budget is None:
        return recipe
    budget = f"{seconds_of(recipe.fit.budget) / turns:.3f}s"
    fit = msgspec.structs.replace(recipe.fit, budget=budget)
    return msgspec.structs.replace(recipe, fit=fit)


def prepare(
    run: Path, recipe: Recipe, kind: Kind, resume: bool, overwrite: bool
) -> None:
    """Create the folder with the recipe as it was given, or check the one there.

    Raises:
        OutputError: It holds something else, or cannot be written.
        RecipeError: The runs to resume have another recipe.
    """
    if started() > 1:
        raise RecipeError(
            f"torchrun has started {started()} processes for one training, and "
            f"{kind.option} makes several. Start hsi-train without torchrun."
        )
    if run.exists() and not run.is_dir():
        raise OutputError(f"{run} is a file; -o names the folder of the runs.")
    present: set[Path] = set()
    if run.is_dir():
        present = set(run.iterdir()) - set(run_folder.leftovers(run, kind.summary))
    begun = run.is_dir() and any(run.glob(kind.pattern))
    if resume and not begun:
        raise OutputError(f"{run} holds no runs of {kind.option} to resume.")
    if present and not (resume or overwrite):
        raise OutputError(
            f"{run} is not empty; --resume goes on with its runs, --overwrite "
            "replaces them."
        )
    if overwrite and present:
        own = (run_folder.RECIPE, kind.summary, REPORT)
        for path in sorted(present):
            of_runs = path.match(kind.pattern) or path.name == checkpoint.MODEL
            if path.is_dir() and of_runs:
                run_folder.check_folder(path, False, True)
            elif path.name not in own and not path.match(f"{checkpoint.MODEL}.*"):
                raise OutputError(
                    f"{run} holds {path.name}, which --overwrite would delete; move "
                    "what is no part of the runs, or choose another folder."
                )
        run_folder.check_inputs(run, recipe)
    run_folder.prepare_folder(run, recipe, resume, overwrite)


def data_present(recipe: Recipe, resume: bool) -> Digests:
    """Return SHA-256 of the files that train, by name, where runs may be finished."""
    return by_name(digests(stamps(training_files(recipe)))) if resume else {}


def train_parts(
    run: Path,
    parts: Sequence[Part],
    device: str,
    present: Digests,
    watch: Watch,
    workers: int = 1,
) -> list[dict[str, Any]]:
    """Train each run that is not finished; return the ``metrics.json`` of all.

    Args:
        run: Folder of all runs.
        parts: The runs.
        device: As for `training.train`.
        present: What `data_present` returned.
        watch: As for `training.train`; is told nothing of several workers.
        workers: Runs that are trained at once, each in a process of its own with an
            equal part of the cores.

    Raises:
        ResourceError: A worker was killed.
    """
    if workers == 1:
        return [train_part(run, part, device, present, watch) for part in parts]
    threads = max(usable_cores() // workers, 1)
    level = log.getEffectiveLevel()
    with ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), _begin_worker, (threads, level)
    ) as pool:
        ask = partial(train_part, run, device=device, present=present, watch=UNWATCHED)
        futures = [pool.submit(ask, part) for part in parts]
        try:
            return [future.result() for future in futures]
        except BrokenProcessPool as error:
            raise ResourceError(
                "A worker was killed, as happens where memory runs out. Repeat the "
                "command with --resume and fewer --workers."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _begin_worker(threads: int, level: int) -> None:
    """Say as much as the process that started this one."""
    command_line.start_messages(quiet=level >= logging.ERROR)
    torch.set_num_threads(threads)


def train_part(
    run: Path,
    part: Part,
    device: str,
    present: Digests,
    watch: Watch,
    evidence: Evidence | None = None,
) -> dict[str, Any]:
    """Train a run, go on with it, or read what it measured when it was finished.

    Args:
        run: Folder of all runs.
        part: The run.
        device: As for `training.train`.
        present: What `data_present` returned.
        watch: As for `training.train`.
        evidence: As for `training.train`.
    """
    folder, recipe = run / part.name, part.recipe
    metrics = folder / run_folder.METRICS
    begun = run_folder.interrupted(folder)
    if metrics.is_file() and not begun:
        _check_finished(folder, present)
        result: dict[str, Any] = json.loads(metrics.read_text(encoding="utf-8"))
        return result
    # What a crash left before the first state is of no use.
    return training.train(recipe, folder, device, begun, not begun, watch, evidence)


def _check_finished(folder: Path, present: Digests) -> None:
    """Refuse to count a finished run in that was trained on other data.

    Raises:
        RecipeError: A file has changed since.
    """
    before = checkpoint.load(folder).description.provenance.data_sha256
    names = sorted(k for k in before | present if before.get(k) != present.get(k))
    if names:
        raise RecipeError(
            f"{folder} was trained on other data: {', '.join(names[:3])} changed "
            "since. Restore what changed, or start again with --overwrite."
        )
