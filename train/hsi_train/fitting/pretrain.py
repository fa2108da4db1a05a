"""Trains an encoder on scenes without labels, for any method that has one.

The windows come from scenes of any sensor. The encoder alone is kept, in a safetensors
file of its own, from which other runs can start.
"""

import importlib.metadata
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn

from hsi_runtime.errors import SceneError
from hsi_runtime.scenes.scene import Cube, valid_pixels
from hsi_train.data import loading
from hsi_train.data.labelled_scene import LabelledData
from hsi_train.data.parts import MASK_BYTES, check_room
from hsi_train.fitting.encoder_file import (
    ENCODER,
    PRETRAIN_STATE,
    Origin,
    load_encoder,
    save_encoder,
)
from hsi_train.fitting.optimisation import Optimisation, check_finite
from hsi_train.fitting.resume_state import loaded_state, save_state
from hsi_train.fitting.statistics import check_extremes, usable_deviation
from hsi_train.method import BaseMethod
from hsi_train.recipe import Pretrain

WARM_UP = 0.05  # share of the steps
BETAS = (0.9, 0.95)
SAVE_EVERY = 50  # steps
MEMORY = 0.98  # of the running mean of the loss


class Pretrainable(BaseMethod):
    """A method with an encoder that scenes without labels can train.

    Attributes:
        pretrained: Whether the encoder is, or will be before the first step.
    """

    pretrained = False

    @property
    @abstractmethod
    def encoder(self) -> nn.Module:
        """The part that pre-training trains, and from which other runs may start."""

    @staticmethod
    @abstractmethod
    def adapter(mean: Tensor, std: Tensor) -> nn.Module:
        """Build what brings one sensor's stored units to the encoder's input.

        Args:
            mean: Mean of each band, shape ``(band,)``.
            std: Standard deviation of each band, positive.
        """

    @abstractmethod
    def pretraining_loss(self, cube: Tensor) -> Tensor:
        """Return the loss of adapted windows, shape ``(batch, feature, row, col)``."""


class Source(NamedTuple):
    """A scene without labels.

    Attributes:
        name: File name.
        cube: Stored units, used bands only, shape ``(band, row, col)``.
        corners: First row and column of every window without a missing value, shape
            ``(window, 2)``.
        mean: Mean of all valid pixels, shape ``(band,)``.
        std: Their standard deviation; one where a band never varies.
    """

    name: str
    cube: Cube
    corners: NDArray[np.intp]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]


def read_sources(
    paths: Sequence[str], side: int, warn: Callable[[str], None]
) -> list[Source]:
    """Read whole scenes, as stored, with all windows of a side that lack no value.

    Args:
        paths: Scenes, or folders of scenes.
        side: Side of a window, pixels.
        warn: Called with each sentence the user should read.

    Raises:
        SceneError: A scene cannot be read, or none holds a window.
        ResourceError: All scenes together do not fit into memory.
    """
    sources, needed = [], 0
    for path in loading.expand_scenes(paths):
        scene = loading.open_any(path)
        try:
            info = scene.info
            bands = np.flatnonzero(info.good)
            pixel_bytes = len(bands) * info.dtype.itemsize + MASK_BYTES
            needed += info.rows * info.cols * pixel_bytes
            check_room(needed, "The scenes to pre-train on")
            cube = scene.read((0, info.rows), (0, info.cols), bands)
        finally:
            scene.close()
        nodata = info.nodata[bands]
        parts = [slice(i, i + 1) for i in range(len(bands))]
        alive = np.array([valid_pixels(cube[i], nodata[i]).any() for i in parts], bool)
        cube, nodata = cube[alive], nodata[alive]
        valid = valid_pixels(cube, nodata) if alive.any() else np.zeros((1, 1), bool)
        corners = complete_windows(valid, side)
        if not len(corners):
            warn(
                f"{info.path.name} has no window of {side} x {side} px without missing "
                "values and is left out of pre-training."
            )
            continue
        for sentence in check_extremes(info.path.name, cube, valid):
            warn(sentence)
        # Band by band: a copy of all in double precision would be large.
        measured = [(b.mean(), b.std()) for b in (p[valid].astype(float) for p in cube)]
        mean, std = np.array(measured).T
        std = usable_deviation(mean, std)
        sources.append(Source(info.path.name, cube, corners, mean, std))
    if not sources:
        raise SceneError(
            f"None of the scenes to pre-train on holds a window of {side} x {side} px "
            "without missing values; give larger ones, or lower pretrain.outputs."
        )
    return sources


def caveats(origin: Origin, data: LabelledData) -> list[str]:
    """Warn if an encoder has seen the scenes whose accuracy is measured."""
    here = {scene.info.path.name for scene in data.scenes}
    both = [name for name in origin.scenes if name in here]
    if not both:
        return []
    return [
        f"The encoder was pre-trained on {', '.join(both)}, test pixels included, "
        "though without labels (transductive): the accuracy holds for this scene, and "
        "less for one that the encoder has not seen."
    ]


def complete_windows(valid: NDArray[np.bool_], side: int) -> NDArray[np.intp]:
    """List first row and column of all windows that are valid throughout."""
    rows, cols = valid.shape
    if min(rows, cols) < side:
        return np.empty((0, 2), dtype=np.intp)
    whole = ndimage.minimum_filter(
        valid, side, mode="constant", cval=0, origin=-(side // 2)
    )
    return np.argwhere(whole[: rows - side + 1, : cols - side + 1])


class Pretrainer:
    """Trains the encoder of a method, and can be saved between steps."""

    def __init__(
        self,
        method: Pretrainable,
        name: str,
        sources: list[Source],
        settings: Pretrain,
        seed: int,
        device: torch.device,
        origin: Mapping[str, Any] | None = None,
    ) -> None:
        self._method, self._name = method.to(device), name
        self._sources, self._settings, self._device = sources, settings, device
        self._seed, self._origin = seed, origin or {}
        self._adapters = [
            method.adapter(torch.from_numpy(s.mean), torch.from_numpy(s.std)).to(device)
            for s in sources
        ]
        self._rng = np.random.default_rng(seed)
        groups = decay_groups(method, settings.weight_decay)
        self._optimisation = Optimisation(
            method.parameters(),
            [group | {"lr": settings.learning_rate} for group in groups],
            schedule=lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(
                optimizer,
                settings.learning_rate,
                total_steps=settings.steps,
                pct_start=warm_up_share(WARM_UP, settings.steps),
                cycle_momentum=False,
            ),
            device=device,
            betas=BETAS,
        )
        self._done = 0
        self.loss = 0.0  # running mean

    def run(
        self,
        run: Path,
        resume: bool = False,
        after_step: Callable[[int, int, float], None] = lambda *_: None,
    ) -> None:
        """Train to the end and write the encoder.

        Args:
            run: Folder of the run; holds the state on the way.
            resume: Continue from that state.
            after_step: Called with finished steps, all steps and the loss.
        """
        state, steps = run / PRETRAIN_STATE, self._settings.steps
        if resume:
            self.load(state)
        self._method.train()
        while self._done < steps:
            if self._done % SAVE_EVERY == 0:
                self.save(state)
            value = self._step()
            self._done += 1
            when = f"step {self._done} of pre-training"
            check_finite(value, when, "pretrain.learning_rate")
            share = MEMORY if self._done > 1 else 0.0
            self.loss = share * self.loss + (1 - share) * value
            after_step(self._done, steps, value)
        self.save(state)
        self._optimisation.clear()
        origin = Origin(
            method=self._name,
            version=importlib.metadata.version("hsi-edge"),
            scenes=[s.name for s in self._sources],
            steps=steps,
            seed=self._seed,
            loss=self.loss,
        )
        save_encoder(run / ENCODER, self._method.encoder, origin)

    def _step(self) -> float:
        cube = self._windows()
        with self._optimisation.precision():
            loss = self._method.pretraining_loss(cube)
        value = self._optimisation.step(loss)
        self._optimisation.advance()
        return value

    @torch.no_grad()
    def _windows(self) -> Tensor:
        """Draw a batch: scenes alike often, whatever their size; turned, flipped."""
        side = self._settings.outputs + 2 * self._method.halo
        out = []
        for number in self._rng.integers(0, len(self._sources), self._settings.batch):
            source = self._sources[number]
            row, col = source.corners[self._rng.integers(len(source.corners))]
            part = source.cube[:, row : row + side, col : col + side]
            turns, flip = (int(v) for v in self._rng.integers(0, (4, 2)))
            part = np.rot90(part[..., ::-1] if flip else part, turns, (1, 2))
            cube = torch.from_numpy(part.astype(np.float32)).to(self._device)
            out.append(self._adapters[number](cube[None]))
        return torch.cat(out)

    def save(self, path: Path) -> None:
        """Save all that `load` needs to continue as if it had not been interrupted."""
        state: dict[str, Any] = {
            "method": self._method.state_dict(),
            **self._optimisation.state(),
            "numpy": self._rng.bit_generator.state,
            "done": self._done,
            "loss": self.loss,
        }
        save_state(path, state, self._origin)

    def load(self, path: Path) -> None:
        """Continue where `save` was called.

        Raises:
            OutputError: The file is damaged.
            RecipeError: It is of a run with other data, settings or versions.
        """
        with loaded_state(path, self._origin) as state:
            self._method.load_state_dict(state["method"])
            self._optimisation.load(state)
            self._rng.bit_generator.state = state["numpy"]
            self._done, self.loss = state["done"], state["loss"]


def warm_up_share(share: float, steps: int) -> float:
    """Return the share of a schedule that warms up.

    torch divides by zero where that is exactly one step: two, then.
    """
    return 2 / steps if share * steps == 1 else share


def decay_groups(method: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Let only the weights of linear layers decay: no bias, norm or token."""
    linear = {id(m.weight) for m in method.modules() if isinstance(m, nn.Linear)}
    trained = [p for p in method.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if id(p) in linear],
         "weight_decay": weight_decay},
        {"params": [p for p in trained if id(p) not in linear], "weight_decay": 0.0},
    ]  # fmt: skip


class Reuse:
    """Takes the encoder of another run, in place of training one."""

    def __init__(self, path: Path, method: Pretrainable, name: str) -> None:
        self._encoder = method.encoder
        self._origin = load_encoder(path, method.encoder, name)

    def run(self, run: Path, *_: object) -> None:
        """Keep a copy, so that the run stands alone."""
        save_encoder(run / ENCODER, self._encoder, self._origin)
