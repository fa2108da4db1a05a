"""What comes after a training: measuring, and the files of the run folder."""

import importlib.metadata
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from hsi_runtime import files
from hsi_train import target
from hsi_train.building import bears_changes
from hsi_train.data.roles import Role
from hsi_train.fitting import encoder_file, pretrain
from hsi_train.fitting.length.schedule import UNFINISHED
from hsi_train.fitting.predict import Scorer
from hsi_train.fitting.progress import FOLDS, UNCHECKED, Progress
from hsi_train.fitting.trainer import Trainer
from hsi_train.inputs import Inputs, logged
from hsi_train.layers import parameter_count
from hsi_train.linear.folds import blocked_folds
from hsi_train.measuring import area_estimate, calibration, metrics, prediction_sets
from hsi_train.measuring.metrics import Confusion
from hsi_train.method import BaseMethod
from hsi_train.recipe import Recipe
from hsi_train.report.run_result import RunResult
from hsi_train.rivals import comparing
from hsi_train.run_folder import checkpoint, folder, novelty
from hsi_train.run_folder.description import describe, sample_window
from hsi_train.splitting import split

UNCHOSEN_SIDE = 3  # px over which spectra are averaged where no folds chose one


@dataclass(frozen=True)
class Trained:
    """A method whose training is over.

    Attributes:
        method: In evaluation mode.
        scorer: Scores scenes with it.
        progress: History of its training.
        training: How long it was trained, as ``metrics.json`` holds it.
        caveats: Sentences on its training that the user should read.
    """

    method: BaseMethod
    scorer: Scorer
    progress: Progress
    training: dict[str, Any]
    caveats: list[str]


@dataclass(frozen=True)
class Evidence:
    """What folds found for a model that is trained on all labels.

    Attributes:
        matrix: Confusion matrix of the test pixels of all folds.
        rounds: Rounds to train; None until the time is up, or as the recipe says.
        gate: Factor of the network's scores; None without a linear path.
        unjudged: Indices of classes that most folds could not judge the network by.
        balance: How much rare classes count for more.
        temperature: Temperature of the probabilities.
        summary: Content of ``folds.json``.
    """

    matrix: Confusion
    rounds: int | None
    gate: float | None
    unjudged: tuple[int, ...]
    balance: float
    temperature: float
    summary: dict[str, Any]

    def apply(self, trainer: Trainer) -> None:
        """Fix what a training that nothing validates cannot find out itself."""
        schedule = trainer.schedule
        if self.rounds is not None and trainer.trains:
            schedule.plan(self.rounds, FOLDS)
        elif schedule.progress.stop == UNCHECKED:
            schedule.train_until_time_is_up()
        if trainer.method.path is not None and self.gate is not None:
            trainer.method.path.gate.fill_(self.gate)
            trainer.method.path.unjudged = self.unjudged
        probabilities = trainer.method.probabilities
        probabilities.balance.fill_(self.balance)
        probabilities.temperature.fill_(self.temperature)


def trained(trainer: Trainer) -> Trained:
    """Take what a trainer has trained."""
    caveats = []
    summary = trainer.summary()
    if summary.get("budget", {}).get("verdict") == UNFINISHED:
        caveats.append(
            "The budget ended the training while it was still improving: with more "
            "time the map may become better."
        )
    if (shut := trainer.shut_out) is not None:
        caveats.append(shut)
    return Trained(
        method=trainer.method,
        scorer=trainer.scorer,
        progress=trainer.progress,
        training=summary,
        caveats=logged(caveats),
    )


def measure(
    recipe: Recipe, run: Path, inputs: Inputs, trained: Trained
) -> dict[str, Any]:
    """Measure a trained method on the test pixels, and calibrate it.

    Returns:
        The content of ``metrics.json``, but for target and seconds.
    """
    data, method, scorer = inputs.data, trained.method, trained.scorer
    tested = scorer.score(data, Role.TEST)
    validated = scorer.score(data, Role.VALIDATION)
    assert validated.places is not None
    folds = blocked_folds(validated.places, validated.classes)
    calibrated = calibration.calibrate(method.probabilities, validated, tested, folds)
    temperature = float(method.probabilities.temperature)
    levels = []
    # Beside training pixels validation is easier than the map.
    if not split.hidden_neighbours(data, method.halo, Role.VALIDATION):
        levels = prediction_sets.set_levels(validated, temperature)
    matrix = tested.confusion()
    result = facts(recipe, inputs, trained, matrix)
    caveats, result["calibration"] = result["warnings"], calibrated
    result["sets"] = prediction_sets.measure(levels, tested, temperature)
    if recipe.split.probability_sample:
        mapped = scorer.pixels_by_class(data)
        result["area_adjusted"], messages = area_estimate.measure(matrix, mapped, data)
        caveats += logged(messages)
    # The linear rivals of spectra are what is trained.
    if recipe.rivals != "none" and data.spectra is None:
        rivals, tested_blocks = comparing.measure(
            data,
            method.problem,
            scorer,
            # A rival need not bear what the path of this map does.
            fitted=None if bears_changes(inputs.recipe) else inputs.linear,
            every=recipe.rivals == "all",
        )
        result["rivals"] = comparing.report(rivals)
        result["test_blocks"] = tested_blocks._asdict()
        caveats += logged(list(filter(None, [comparing.caveat(rivals)])))
    if recipe.pretrain is not None:
        _, encoder_origin = encoder_file.read_encoder(run / encoder_file.ENCODER)
        caveats += logged(pretrain.caveats(encoder_origin, data))
        result["pretraining"] = msgspec.to_builtins(encoder_origin)
    return result


def take_over(
    recipe: Recipe, inputs: Inputs, trained: Trained, evidence: Evidence
) -> dict[str, Any]:
    """Return ``metrics.json`` of a model without test pixels: the folds' accuracy."""
    result = facts(recipe, inputs, trained, evidence.matrix)
    result["folds"] = evidence.summary
    result["warnings"].append(
        f"The accuracy is that of {evidence.summary['folds']} folds, of models that "
        "were trained on fewer pixels. No pixel is left to test this one."
    )
    return result


def facts(
    recipe: Recipe, inputs: Inputs, trained: Trained, matrix: Confusion
) -> dict[str, Any]:
    """Collect what ``metrics.json`` holds of every training.

    Args:
        recipe: The recipe as it was given.
        inputs: The data.
        trained: The trained method.
        matrix: Confusion matrix from which the accuracies are computed.
    """
    data, method = inputs.data, trained.method
    counts = data.pixels_by_role()
    return {
        "method": recipe.method,
        "seed": recipe.seed,
        **({} if data.spectra is None else {"units": data.units}),
        "version": importlib.metadata.version("hsi-edge"),
        "classes": [{"code": c.code, "name": c.name} for c in data.classes],
        **metrics.report(matrix, data.classes),
        "counts": {
            role.name.lower(): int(counts[:, role].sum())
            for role in (Role.TRAIN, Role.VALIDATION, Role.TEST, Role.BUFFER)
        },
        "test_pixels_in_training_windows": split.seen_in_training(data, method.halo)[0],
        "receptive_field": method.receptive_field,
        "parameters": parameter_count(method.network),
        "best_epoch": trained.progress.best_epoch,
        "training": trained.training,
        "calibration": None,
        "sets": [],
        "area_adjusted": None,
        "warnings": [*inputs.caveats, *trained.caveats],
    }


def write(
    resolved: Recipe,
    run: Path,
    inputs: Inputs,
    trained: Trained,
    result: dict[str, Any],
    started: float,
) -> None:
    """Write checkpoint, split, metrics and report; complete ``result`` in place."""
    data, method = inputs.data, trained.method
    side = inputs.linear.choice.best.view.side if inputs.linear else UNCHOSEN_SIDE
    seen = novelty.describe_training(
        data, min(side, method.receptive_field), inputs.problem.fill
    )
    description = describe(
        resolved, data, inputs.bands, inputs.values, inputs.data_sha256, result, seen
    )
    sample = sample_window(data, method.halo, inputs.problem.fill)
    checkpoint.save(run, method, description, sample)
    folder.write_splits(run, data)
    folder.write_confusion(run / "confusion.csv", result["confusion"], data)
    if inputs.target_data is not None:
        result["target"] = target.measure(inputs.target_data, trained.scorer)
    result["seconds"] = time.monotonic() - started
    files.write_text(run / folder.METRICS, json.dumps(result, indent=1) + "\n")

    from hsi_train.report.page import write_report  # imports matplotlib

    write_report(
        run / "report.html",
        RunResult(
            method=method,
            device=trained.scorer.device,
            data=data,
            progress=trained.progress,
            metrics=result,
            description=description,
            target_data=inputs.target_data,
        ),
    )
    (run / folder.STATE).unlink(missing_ok=True)
