"""The checkpoint of a run: weights, and all that an export must know, in one file.

Safetensors holds tensors and text and cannot run code. Besides the weights it keeps
real windows of the training scene, so that an export can be verified after the scene
has moved.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import torch
from msgspec import Meta
from numpy.typing import NDArray
from torch import Tensor

from hsi_runtime.errors import ModelFileError
from hsi_runtime.model.model_file import (
    Bands,
    ClassEntry,
    Provenance,
    SetLevel,
    Values,
)
from hsi_runtime.model.training import Training
from hsi_train import methods
from hsi_train.fitting.tensor_file import read_tensors, write_tensors
from hsi_train.layers import LINEAR_SIDES, LinearFit
from hsi_train.method import BaseMethod, Problem
from hsi_train.run_folder import ensemble
from hsi_train.run_folder.ensemble import Ensemble

FILE_NAME = "checkpoint.safetensors"
MODEL = "model"  # folder of the model that several runs gave
METADATA_KEY = "hsi_checkpoint"
SAMPLE = "sample"
PROBLEM = "problem."  # prefix of the tensors that the method was built from
LINEAR = "linear."  # the same, of the linear path
MEMBER = "member."  # the same, of a member of an ensemble; its number follows
TEMPERATURE = "probabilities.temperature"
LATER = ("probabilities.balance", "._extra_state")  # ends of keys earlier versions lack
SAMPLE_OUTPUTS = 48  # classified square of the stored window


class Description(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the checkpoint says about its weights; the document of the model to be."""

    method: str
    options: dict[str, Any]
    classes: list[ClassEntry]
    bands: Bands
    values: Values
    resolution_m: float | None
    provenance: Provenance
    reject_below: float | None = None
    set_levels: list[SetLevel] = []
    training: Training | None = None
    members: Annotated[int, Meta(ge=1)] = 1


@dataclass(frozen=True)
class Checkpoint:
    """A trained method, in evaluation mode, with its description.

    Attributes:
        method: With its weights.
        description: Its data, classes and origin.
        sample: Real window, stored units, shape ``(band, row, col)``.
    """

    method: BaseMethod
    description: Description
    sample: NDArray[Any]


def save(
    run: Path, method: BaseMethod, description: Description, sample: NDArray[Any]
) -> Path:
    """Write the checkpoint of a run.

    Raises:
        RecipeError: A weight, or a value of the sample, is not finite.
    """
    if isinstance(method, Ensemble):
        state = {
            f"{MEMBER}{number}.{key}": value
            for number, member in enumerate(method.members)
            for key, value in member.state_dict().items()
        }
        state[TEMPERATURE] = method.probabilities.temperature
    else:
        state = method.state_dict()
    problem = method.problem._asdict()
    linear = problem.pop("linear")
    state |= {PROBLEM + k: v for k, v in problem.items()}
    if linear is not None:
        state |= {LINEAR + k: v for k, v in linear._asdict().items()}
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in state.items()}
    tensors[SAMPLE] = torch.from_numpy(np.ascontiguousarray(sample))
    path = run / FILE_NAME
    text = msgspec.json.encode(description).decode()
    write_tensors(path, tensors, METADATA_KEY, text)
    return path


def path_of(run: Path) -> Path:
    """Return the path of a run's checkpoint; of several runs, that of their model."""
    if not run.is_dir():
        return run
    own, of_all = run / FILE_NAME, run / MODEL / FILE_NAME
    return of_all if of_all.is_file() and not own.is_file() else own


def load(run: Path) -> Checkpoint:
    """Read the checkpoint of a run.

    Raises:
        ModelFileError: Missing, damaged, or not ours.
    """
    path = path_of(run)
    if not path.is_file():
        seeds = sorted(str(p.parent) for p in run.glob(f"seed-*/{FILE_NAME}"))
        advice = f"one of {', '.join(seeds)}" if seeds else "the folder hsi-train wrote"
        raise ModelFileError(f"There is no checkpoint {path}; give {advice}.")
    tensors, text = read_tensors(path, METADATA_KEY)
    if text is None or SAMPLE not in tensors:
        raise ModelFileError(f"{path} was not written by hsi-train.")
    try:
        description = msgspec.json.decode(text, type=Description)
    except msgspec.DecodeError as error:
        raise ModelFileError(f"{path} is of another version: {error}.") from error
    sample = tensors.pop(SAMPLE).numpy()
    try:
        problem = _problem(tensors)
    except KeyError as error:
        raise ModelFileError(f"{path} is of another version: no {error}.") from error
    _check_problem(path, problem, description)
    try:
        method = _built(problem, description, tensors)
    except RuntimeError as error:  # also an allocation that fails
        raise ModelFileError(
            f"{path}: the weights do not fit method {description.method}: {error}"
        ) from error
    bands, side = len(description.bands.used), method.receptive_field
    if len(sample.shape) != 3 or len(sample) != bands or min(sample.shape[1:]) < side:
        raise ModelFileError(
            f"{path} is damaged: its sample has the shape {sample.shape}, and {bands} "
            f"bands and a receptive field of {side} need another. Copy the run again."
        )
    return Checkpoint(method.eval(), description, sample)


def _built(
    problem: Problem, description: Description, tensors: dict[str, Tensor]
) -> BaseMethod:
    """Build the method, or an ensemble of several, and load its weights.

    Raises:
        RuntimeError: They do not fit.
    """
    members = []
    for number in range(description.members):
        prefix = f"{MEMBER}{number}." if description.members > 1 else ""
        method = methods.build(description.method, problem, description.options)
        state = {
            key.removeprefix(prefix): value
            for key, value in tensors.items()
            if key.startswith(prefix)
        }
        for key, value in method.state_dict().items():
            if key.endswith(LATER):
                state.setdefault(key, value)
        method.load_state_dict(state)
        members.append(method.eval())
    if description.members == 1:
        return members[0]
    joined = ensemble.of(members)
    if TEMPERATURE not in tensors:
        raise RuntimeError(f"{TEMPERATURE} is missing")
    joined.probabilities.temperature.copy_(tensors[TEMPERATURE])
    return joined


def _check_problem(path: Path, problem: Problem, description: Description) -> None:
    """Check that the statistics are of the described bands and classes.

    Raises:
        ModelFileError: They are not.
    """
    bands, classes = len(description.bands.used), len(description.classes)
    tensors = problem._asdict()
    linear = tensors.pop("linear")
    expected: dict[str, tuple[int, ...]] = {
        "band_mean": (bands,),
        "band_std": (bands,),
        "class_counts": (classes,),
        "class_means": (classes, bands),
        "top": (),
    }
    if linear is not None:
        tensors |= linear._asdict()
        sides = len(LINEAR_SIDES) if len(linear.bands) > 1 else 1
        views = sides, classes, bands
        expected |= {"bands": views, "shape": views, "centre": (bands,)}
        expected["bias"] = (classes,)
    for name, shape in expected.items():
        if tuple(tensors[name].shape) != shape:
            raise ModelFileError(
                f"{path} is damaged: {name} has the shape {tuple(tensors[name].shape)},"
                f" and {bands} bands and {classes} classes need {shape}."
            )


def _problem(tensors: dict[str, Tensor]) -> Problem:
    """Take what the method was built from out of the tensors of a checkpoint.

    Raises:
        KeyError: Something is missing.
    """
    fields = [name for name in Problem._fields if name != "linear"]
    problem = Problem._make([*(tensors.pop(PROBLEM + name) for name in fields), None])
    if not any(name.startswith(LINEAR) for name in tensors):
        return problem
    fit = LinearFit(*(tensors.pop(LINEAR + name) for name in LinearFit._fields))
    return problem._replace(linear=fit)
