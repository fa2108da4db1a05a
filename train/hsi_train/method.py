"""What every method is to the rest of hsi_train: a network, its objective, its options.

A method is one file in ``methods/``; its file name is the name users type. The file
defines two names:

- ``Options``: a frozen msgspec struct, the ``[options]`` table of a recipe;
- ``Method``: a subclass of `BaseMethod`.

Nothing else has to be edited: the command line, the contract tests and the exporter
find methods by listing the folder.
"""

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hsi_runtime.errors import RecipeError
from hsi_runtime.model_file import PROBABILITIES
from hsi_train import methods
from hsi_train.calibration import Probabilities

if TYPE_CHECKING:
    from hsi_train.patches import Windows

IGNORED = -1  # class index of an output that has no say in the loss


class Batch(NamedTuple):
    """Training windows and what their outputs should be.

    Attributes:
        cube: Stored units, float32, shape ``(batch, band, row, col)``.
        classes: Class index or `IGNORED`, int64,
            shape ``(batch, row - 2 halo, col - 2 halo)``.
    """

    cube: Tensor
    classes: Tensor

    def to(self, device: torch.device) -> "Batch":
        """Move both tensors."""
        return Batch(self.cube.to(device), self.classes.to(device))


class Problem(NamedTuple):
    """What a method must know of the data before it can build its layers.

    Attributes:
        band_mean: Mean over training pixels, stored units, shape ``(band,)``.
        band_std: Standard deviation over training pixels, shape ``(band,)``.
        class_counts: Training pixels of each class, shape ``(class,)``.
        class_means: Mean training spectrum of each class, stored units, shape
            ``(class, band)``.
        top: 99.9th percentile of all values of training pixels, stored units, no axes.
    """

    band_mean: Tensor
    band_std: Tensor
    class_counts: Tensor
    class_means: Tensor
    top: Tensor


@dataclass(frozen=True)
class Defaults:
    """How a method is trained where the recipe's ``[fit]`` does not say.

    Attributes:
        learning_rate: Peak of the one-cycle schedule.
        weight_decay: Of AdamW.
        gain: Windows are brightened by up to this share.
        noise: Added noise, in standard deviations of a band.
        batch: Patches in a step.
        min_steps: Optimiser steps below which the network has not settled, however few
            the labels; 0 where `BaseMethod.prepare` leaves nothing to train.
    """

    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    gain: float = 0.1
    noise: float = 0.04
    batch: int = 60
    min_steps: int = 50


class BaseMethod(nn.Module):
    """A trainable classifier; `network` alone is what is exported and run.

    Parameters outside `network` exist for training only. `probabilities` turns scores
    into what the exported graph says; training sees the scores as they are.
    """

    receptive_field: ClassVar[int]
    outputs: ClassVar[tuple[str, ...]] = (PROBABILITIES,)
    defaults: ClassVar[Defaults] = Defaults()
    network: nn.Module
    problem: Problem
    class_weights: Tensor
    progress = 0.0  # share of the training steps taken; the trainer keeps it

    def __init__(self, problem: Problem, class_weighting: float = 0.0) -> None:
        """Keep the weights of the cross-entropy.

        Args:
            problem: Statistics of the training pixels.
            class_weighting: Exponent p of weights proportional to ``count ** -p``:
                0 treats every pixel alike, 1 every class.
        """
        super().__init__()
        self.problem = problem
        self.probabilities = Probabilities()
        counts = problem.class_counts.double()
        weights = counts**-class_weighting
        # A mean of one over the training pixels keeps the loss's scale.
        weights = weights * counts.sum() / (weights * counts).sum()
        self.register_buffer("class_weights", weights.float(), persistent=False)

    @classmethod
    def halo_of(cls) -> int:
        """Context needed on each side of an output, in pixels."""
        return (cls.receptive_field - 1) // 2

    @property
    def halo(self) -> int:
        """Context needed on each side of an output, in pixels."""
        return self.halo_of()

    def loss(self, batch: Batch) -> Tensor:
        """Average the weighted cross-entropy over the outputs that have a class.

        A batch without any such output gives zero, with finite gradients.
        """
        return self.cross_entropy(self.network(batch.cube), batch.classes)

    def cross_entropy(self, scores: Tensor, classes: Tensor) -> Tensor:
        """Average the weighted cross-entropy of scores ``(batch, class, row, col)``.

        Args:
            scores: Of each class.
            classes: Class index or `IGNORED`, shape ``(batch, row, col)``.
        """
        total = F.cross_entropy(
            scores,
            classes,
            weight=self.class_weights,
            ignore_index=IGNORED,
            reduction="sum",
        )
        return total / (classes != IGNORED).sum().clamp(min=1)

    def losses(self, batch: Batch) -> Iterator[Tensor]:
        """Yield what one training step minimises.

        After each value the trainer takes one optimiser step over the parameters that
        the value reached, and resumes the generator. Most methods yield once; a
        min-max game yields each side's loss in turn, the other side frozen.
        """
        yield self.loss(batch)

    def shown(self, cube: Tensor) -> Tensor:
        """Return all that a training step shows the network of windows.

        After training, batch statistics are measured on it once more.

        Args:
            cube: Stored units, shape ``(batch, band, row, col)``.

        Returns:
            Shape ``(sample, band, row, col)``.
        """
        return cube

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Group the parameters for AdamW: ``params``, ``lr`` (its peak), and so on."""
        return [{"params": list(self.parameters()), "lr": learning_rate}]

    def fit_defaults(self) -> Defaults:
        """Say how this problem is trained where the recipe does not.

        Raises:
            RecipeError: The options cannot be trained on this problem.
        """
        return self.defaults

    def prepare(self, windows: "Windows") -> None:
        """Look at the training windows once, before the first step of a new run."""

    def inference_graph(self) -> nn.Module:
        """Return the function that is exported: a cube in stored units to `outputs`."""
        return InferenceGraph(self.network, self.probabilities)

    def folded_graph(self) -> nn.Module:
        """Return `inference_graph` in the form that runs fastest, which is exported.

        The same function of the same weights up to rounding; the exporter compares
        the two.
        """
        return self.inference_graph()

    def endmembers(self) -> Tensor | None:
        """Return the spectra abundances refer to, ``(class, band)``, largest value 1.

        None where the method does not unmix.
        """
        return None

    def training_only(self) -> list[str]:
        """Name the parameters that the exported graph does not contain."""
        return [n for n, _ in self.named_parameters() if not n.startswith("network.")]


class InferenceGraph(nn.Module):
    """The exported function of most methods: a cube to calibrated probabilities."""

    def __init__(self, network: nn.Module, probabilities: Probabilities) -> None:
        super().__init__()
        self.network = network
        self.probabilities = probabilities

    def forward(self, cube: Tensor) -> tuple[Tensor, ...]:
        """Map ``(batch, band, height, width)`` to ``(batch, class, ...)``.

        Height and width shrink by twice the halo.
        """
        return (self.probabilities(self.network(cube)),)


def method_class(name: str) -> type[BaseMethod]:
    """Return the class of a method, to ask what it needs before it can be built.

    Raises:
        RecipeError: There is no such method.
    """
    found: type[BaseMethod] = _module(name).Method
    return found


def check_options(name: str, options: dict[str, Any]) -> msgspec.Struct:
    """Parse the options of a method.

    Raises:
        RecipeError: The method or one of its options does not exist.
    """
    module = _module(name)
    try:
        parsed: msgspec.Struct = msgspec.convert(options, module.Options)
    except msgspec.ValidationError as error:
        raise RecipeError(f"[options] of {name}: {error}") from error
    return parsed


def all_options(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options with every default filled in."""
    filled: dict[str, Any] = msgspec.to_builtins(check_options(name, options))
    return filled


def build(name: str, problem: Problem, options: dict[str, Any]) -> BaseMethod:
    """Build an untrained method.

    Raises:
        RecipeError: The method or one of its options does not exist.
    """
    parsed = check_options(name, options)
    method: BaseMethod = _module(name).Method(problem, parsed)
    return method


def _module(name: str) -> Any:
    if name not in methods.names():
        raise RecipeError(
            f"There is no method {name!r}; there are {', '.join(methods.names())}."
        )
    return importlib.import_module(f"hsi_train.methods.{name}")
