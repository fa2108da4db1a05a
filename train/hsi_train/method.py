"""What every method is to the rest of hsi_train: a network and its objective.

`hsi_train.methods` finds and builds them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from hsi_runtime.model.model_file import PROBABILITIES
from hsi_train.layers import (
    Balanced,
    LinearFit,
    LinearPath,
    Probabilities,
    WithLinearPath,
)
from hsi_train.processes.dealing import deal

IGNORED = -1  # class index of an output that the loss leaves out


class Batch(NamedTuple):
    """Training windows and the classes of their outputs.

    Attributes:
        cube: Stored units, float32, shape ``(batch, band, row, col)``.
        classes: Class index or `IGNORED`, int64,
            shape ``(batch, row - 2 halo, col - 2 halo)``.
        linear: Scores of the linear path for the windows as they were before they were
            altered, shape ``(batch, class, row - 2 halo, col - 2 halo)``, or None.
    """

    cube: Tensor
    classes: Tensor
    linear: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """Move all tensors."""
        linear = None if self.linear is None else self.linear.to(device)
        return Batch(self.cube.to(device), self.classes.to(device), linear)


class Corner(NamedTuple):
    """Position of a window's first output."""

    scene: int
    row: int
    col: int


class TrainingWindows(Protocol):
    """Access to the training windows for a method before the first step."""

    def training_pixels(self) -> list[Corner]:
        """List the training pixels, in order of scene, row and column."""

    def unlabelled(
        self, outputs: int, count: int, rng: np.random.Generator
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
        """Cut random windows that contain no test and no validation pixel."""

    def batch(self, places: list[Corner], outputs: int) -> Batch:
        """Cut several windows into one batch."""


class Problem(NamedTuple):
    """Statistics of the training pixels from which a method builds its layers.

    Attributes:
        band_mean: Mean over training pixels, stored units, shape ``(band,)``.
        band_std: Standard deviation over training pixels, shape ``(band,)``.
        class_counts: Training pixels of each class, shape ``(class,)``.
        class_means: Mean training spectrum of each class, stored units, shape
            ``(class, band)``.
        top: 99.9th percentile of all values of training pixels, stored units, no axes.
        linear: Linear scores fitted in closed form, or None for the network alone.
    """

    band_mean: Tensor
    band_std: Tensor
    class_counts: Tensor
    class_means: Tensor
    top: Tensor
    linear: LinearFit | None = None

    @property
    def fill(self) -> NDArray[np.float64]:
        """What stands for a missing value: the mean, shape ``(band,)``."""
        return self.band_mean.cpu().numpy().astype(np.float64)

    @property
    def level(self) -> float:
        """Mean value of all bands, stored units."""
        return float(self.band_mean.mean())


@dataclass(frozen=True)
class Defaults:
    """Training settings where the recipe's ``[fit]`` gives none.

    Attributes:
        learning_rate: Steady learning rate.
        weight_decay: AdamW weight decay.
        gain: Largest random change of a window's brightness, as a share.
        noise: Random noise added to the windows, in standard deviations of a band.
        masked: Share of a window's pixels that are hidden.
        batch: Number of patches in a step.
        trains: False if `BaseMethod.prepare` leaves nothing to train.
    """

    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    gain: float = 0.1
    noise: float = 0.04
    masked: float = 0.0
    batch: int = 60
    trains: bool = True


class BaseMethod(nn.Module):
    """A trainable classifier; only `network` is exported and run.

    Parameters outside `network` exist for training only. `probabilities` turns scores
    into the output of the exported graph; training uses the scores themselves.
    """

    receptive_field: int
    takes_spectra: ClassVar[bool] = False  # trains on spectra without neighbours
    outputs: ClassVar[tuple[str, ...]] = (PROBABILITIES,)
    defaults: ClassVar[Defaults] = Defaults()
    network: nn.Module
    problem: Problem
    class_weights: Tensor
    progress = 0.0  # share of the training steps taken; set by the trainer

    def __init__(self, problem: Problem, class_weighting: float = 0.0) -> None:
        """Compute the class weights of the cross-entropy.

        Args:
            problem: Statistics of the training pixels.
            class_weighting: Exponent p of weights proportional to ``count ** -p``:
                0 weights all pixels equally, 1 all classes.
        """
        super().__init__()
        self.problem = problem
        self.probabilities = Probabilities(problem.class_counts)
        self.path: LinearPath | None = None
        if problem.linear is not None:
            mean, std = problem.band_mean, problem.band_std
            self.path = LinearPath(problem.linear, mean, std, self.halo)
        counts = problem.class_counts.double()
        weights = counts**-class_weighting
        # A mean of one over the training pixels keeps the loss's scale.
        weights = weights * counts.sum() / (weights * counts).sum()
        self.register_buffer("class_weights", weights.float(), persistent=False)

    @classmethod
    def joins_path(cls, options: msgspec.Struct) -> bool:
        """Return True if the linear path may be added to the network's scores."""
        return True

    @classmethod
    def bears_changes(cls, options: msgspec.Struct) -> float | None:
        """Return the strength of the changes of sensor and sky that the map shall bear.

        None leaves it to the training pixels: see `hsi_train.building.decided`, which
        then sets ``spectral_randomisation`` and ``randomisation_strength``.
        """
        return 0.0

    @property
    def last_layer(self) -> nn.Module | None:
        """The layer that writes the network's scores; None if there is no one such."""
        return None

    @torch.no_grad()
    def start_from_path(self) -> None:
        """Start at the map of the linear path: the network says nothing yet."""
        path, last = self.path, self.last_layer
        if path is not None and not path.apart and last is not None:
            for parameter in last.parameters():
                parameter.zero_()

    @property
    def classifier(self) -> nn.Module:
        """From a cube in stored units to the map's class scores, the path included."""
        path, network = self.path, self.network
        whole = network if path is None else WithLinearPath(network, path)
        return Balanced(whole, self.probabilities)

    def with_path(self, network: nn.Module) -> nn.Module:
        """Add the linear path, if there is one, to the scores of a network.

        A network that the gate shuts out is left out, and so is a path that the network
        replaces.
        """
        if self.path is None or self.path.replaced:
            return network
        return self.path if self.path.shut else WithLinearPath(network, self.path)

    def fold_constants(self) -> None:
        """Compute again what the network keeps of weights that were just loaded."""

    @classmethod
    def halo_of(cls) -> int:
        """Context needed on each side of an output, in pixels."""
        return (cls.receptive_field - 1) // 2

    @property
    def halo(self) -> int:
        """Context needed on each side of an output, in pixels."""
        return (self.receptive_field - 1) // 2

    def loss(self, batch: Batch) -> Tensor:
        """Average the weighted cross-entropy over the outputs that have a class.

        A batch without any such output gives zero, with finite gradients.
        """
        return self.cross_entropy(deal(self.network, batch.cube), batch)

    def cross_entropy(self, scores: Tensor, batch: Batch) -> Tensor:
        """Average the weighted cross-entropy over the outputs that have a class.

        Args:
            scores: The network's class scores, shape ``(batch, class, row, col)``.
            batch: The windows; linear scores, if it has any, are added.
        """
        classes = batch.classes
        if batch.linear is not None:
            scores = scores + batch.linear
        total = F.cross_entropy(
            scores,
            classes,
            weight=self.class_weights,
            ignore_index=IGNORED,
            reduction="sum",
        )
        return total / (classes != IGNORED).sum().clamp(min=1)

    def losses(self, batch: Batch) -> Iterator[Tensor]:
        """Yield the losses that one training step minimises.

        After each value the trainer takes one optimiser step over the parameters that
        the value reached, and resumes the generator. Most methods yield once. A
        min-max game yields each side's loss in turn, with the other side frozen.
        """
        yield self.loss(batch)

    def shown(self, cube: Tensor) -> Tensor:
        """Return the cubes that a training step passes through the network.

        After training, batch statistics are measured on them once more.

        Args:
            cube: Stored units, shape ``(batch, band, row, col)``.

        Returns:
            Shape ``(sample, band, row, col)``.
        """
        return cube

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Group the parameters for AdamW: ``params``, ``lr`` (peak rate), and so on."""
        return [{"params": list(self.parameters()), "lr": learning_rate}]

    def fit_defaults(self) -> Defaults:
        """Return the settings for this problem where the recipe gives none.

        Raises:
            RecipeError: The options cannot be trained on this problem.
        """
        return self.defaults

    def prepare(self, windows: TrainingWindows) -> None:
        """Look at the training windows once, before the first step of a new run."""

    def inference_graph(self) -> nn.Module:
        """Return the function that is exported: a cube in stored units to `outputs`."""
        return InferenceGraph(self.with_path(self.network), self.probabilities)

    def folded_graph(self) -> nn.Module:
        """Return `inference_graph` in the form that runs fastest, which is exported.

        It equals `inference_graph` up to rounding; the exporter compares the two.
        """
        network = self.with_path(self.folded_network())
        return InferenceGraph(network, self.probabilities)

    def folded_network(self) -> nn.Module:
        """Return `network` in the form that runs fastest: equal up to rounding."""
        return self.network

    def endmembers(self) -> Tensor | None:
        """Return the endmember spectra, ``(class, band)``, in stored units.

        None if the method does not unmix.
        """
        return None

    def training_only(self) -> list[str]:
        """List the names of the parameters that the exported graph lacks."""
        return [n for n, _ in self.named_parameters() if not n.startswith("network.")]


class InferenceGraph(nn.Module):
    """The exported function of most methods: from a cube to class probabilities."""

    def __init__(self, network: nn.Module, probabilities: Probabilities) -> None:
        super().__init__()
        self.network = network
        self.probabilities = probabilities

    def forward(self, cube: Tensor) -> tuple[Tensor, ...]:
        """Map ``(batch, band, height, width)`` to ``(batch, class, ...)``.

        Height and width shrink by twice the halo.
        """
        return (self.probabilities(self.network(cube)),)
