"""The training loop: windows in, the best weights out."""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from hsi_runtime.errors import RecipeError
from hsi_train.data.labelled_scene import LabelledData
from hsi_train.data.roles import Role
from hsi_train.fitting.optimisation import Optimisation, check_finite
from hsi_train.fitting.predict import Scorer
from hsi_train.fitting.resume_state import Origin, loaded_state, save_state
from hsi_train.fitting.windows import Windows, augment, shuffled
from hsi_train.measuring import metrics
from hsi_train.method import BaseMethod, Batch, Corner, Defaults
from hsi_train.recipe import Fit

DENSE_OUTPUTS = 32  # classified square of a window where labels are dense
PLOT_OUTPUTS = 8  # the same where no scene is that large
STEP_OUTPUTS = 2 * DENSE_OUTPUTS**2  # classified by the windows of a step
DENSE_GAIN = 4  # windows must save this factor of work to be chosen over patches
MIN_EPOCHS = 10
SMALL_STEPS = 200  # of windows smaller than DENSE_OUTPUTS, at least
MIN_PATCHES = 3  # even steps of at most three patches hold at least two
WARM_UP = 0.1  # share of the steps

State = dict[str, Tensor]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The ``[fit]`` table of a recipe, complete; see `Fit`."""

    epochs: int
    outputs: int
    batch: int
    learning_rate: float
    weight_decay: float
    gain: float
    noise: float
    patience: int


@dataclass(frozen=True)
class Epoch:
    """One line of ``history.csv``; validation is None without validation pixels."""

    epoch: int
    loss: float
    learning_rate: float
    validation_kappa: float | None
    validation_accuracy: float | None
    seconds: float


@dataclass
class Progress:
    """What a resumed run needs besides weights and optimisation.

    Attributes:
        history: One entry for each finished epoch.
        best_kappa: Best kappa of the validation pixels.
        best_epoch: Number of the epoch whose weights are kept, from 1; 0 where none was
            needed.
        best: Those weights.
    """

    history: list[Epoch] = field(default_factory=list)
    best_kappa: float = -math.inf
    best_epoch: int = 0
    best: State | None = None


def choose_settings(
    requested: Fit, windows: Windows, halo: int, defaults: Defaults
) -> Settings:
    """Fill in what the recipe leaves open, from the data and the method's defaults.

    Few labels are trained by patches, dense ones by windows: whichever computes less
    for the same pixels, patches when in doubt, because they mix better. Scenes smaller
    than a window, plots, are cut into small windows, of which a step has many: batch
    statistics of a few plots are not those of all. (NEON, plots of 20 px, test kappa of
    one seed, with 8 windows in a step and 10 epochs, and so: S2AMSnet's classifier,
    trained plainly on four genera, 0 and .47; all genera, MF2CNet .30 and .35, S2VNet
    .13 and .18.)

    Raises:
        RecipeError: Steps too small for batch statistics.
    """
    outputs, batch, epochs = requested.outputs, requested.batch, requested.epochs
    pixels = len(windows.training_pixels())
    if outputs is None:
        largest = max(min(target.shape) for target in windows.targets)
        side = DENSE_OUTPUTS if largest >= DENSE_OUTPUTS else PLOT_OUTPUTS
        patch_work = pixels * (2 * halo + 1) ** 2
        dense_work = len(windows.grid(side, None)) * (side + 2 * halo) ** 2
        outputs = side if patch_work > DENSE_GAIN * dense_work else 1
    if batch is None:
        dense = max(2, STEP_OUTPUTS // outputs**2)
        batch = dense if outputs > 1 else defaults.batch
    if outputs == 1 and batch < MIN_PATCHES:
        raise RecipeError(
            f"fit.batch is {batch}, so a step may hold a single pixel, which has no "
            f"batch statistics; use at least {MIN_PATCHES}, or windows (fit.outputs)."
        )
    if epochs is None:
        steps = math.ceil(_length(windows, outputs) / batch)
        small = 1 < outputs < DENSE_OUTPUTS
        least = max(defaults.min_steps, SMALL_STEPS if small else 0)
        epochs = max(MIN_EPOCHS, math.ceil(least / steps)) if defaults.min_steps else 0
    rates = {
        key: getattr(
            requested if getattr(requested, key) is not None else defaults, key
        )
        for key in ("learning_rate", "weight_decay", "gain", "noise")
    }
    return Settings(
        epochs=epochs,
        outputs=outputs,
        batch=batch,
        patience=requested.patience,
        **rates,
    )


def _length(windows: Windows, outputs: int) -> int:
    if outputs == 1:
        return len(windows.training_pixels())
    return len(windows.grid(outputs, None))


class Trainer:
    """Trains one method, epoch by epoch, and can be saved between epochs.

    Attributes:
        method: The method that is trained.
        scorer: Scores scenes with the present weights.
        progress: What is finished so far.
        origin: What must be the same when the training is resumed.
    """

    def __init__(
        self,
        method: BaseMethod,
        data: LabelledData,
        windows: Windows,
        settings: Settings,
        seed: int,
        device: torch.device,
        origin: Origin | None = None,
    ) -> None:
        self.method = method.to(device)
        self._data, self._windows = data, windows
        self.origin = origin or {}
        self._settings, self._device = settings, device
        self._epochs, self._outputs = settings.epochs, settings.outputs
        self._batch = settings.batch
        self._rng = np.random.default_rng(seed)
        self._generator = torch.Generator().manual_seed(seed)
        self._steps = math.ceil(_length(windows, self._outputs) / self._batch)
        self._optimisation = Optimisation(
            method.parameters(),
            method.parameter_groups(settings.learning_rate),
            steps=self._epochs * self._steps,
            warm_up=WARM_UP,
            device=device,
            weight_decay=settings.weight_decay,
        )
        self.scorer = Scorer(
            network=method.network,
            fill=method.problem.fill,
            halo=method.halo,
            device=device,
        )
        self._validates = any((s.roles == Role.VALIDATION).any() for s in data.scenes)
        self.progress = Progress()

    def prepare(self) -> None:
        """Let the method look at the training windows before the first step."""
        self.method.prepare(self._windows)

    def run(
        self,
        after_epoch: Callable[[Epoch], None] = lambda _: None,
        after_step: Callable[[int, int, float], None] = lambda *_: None,
    ) -> None:
        """Train to the end and load the best weights.

        With validation pixels, the weights of the epoch with the best kappa win, ties
        going to the later one; without, the last. Test pixels have no say. Epochs of
        the schedule's first half do not compete, unless patience may stop it there:
        their rate is high, and a lucky validation is no settled network.

        Args:
            after_epoch: Called with each finished epoch; may save the trainer.
            after_step: Called with finished steps, all steps and the loss.
        """
        progress = self.progress
        for epoch in range(len(progress.history) + 1, self._epochs + 1):
            waited = epoch - 1 - progress.best_epoch
            if 0 < self._settings.patience <= waited:
                break
            started = time.monotonic()
            loss = self._train_epoch(epoch, after_step)
            kappa, accuracy = self._validate()
            eligible = epoch > self._epochs // 2 or self._settings.patience
            if kappa is None or (eligible and kappa >= progress.best_kappa):
                progress.best_kappa = -math.inf if kappa is None else kappa
                progress.best_epoch = epoch
                progress.best = {
                    k: v.detach().cpu().clone()
                    for k, v in self.method.state_dict().items()
                }
            progress.history.append(
                Epoch(
                    epoch=epoch,
                    loss=loss,
                    learning_rate=self._optimisation.learning_rate,
                    validation_kappa=kappa,
                    validation_accuracy=accuracy,
                    seconds=time.monotonic() - started,
                )
            )
            after_epoch(progress.history[-1])
        if progress.best is not None:
            self.method.load_state_dict(progress.best)
        self._settle()
        self.method.eval()

    def _train_epoch(
        self, epoch: int, after_step: Callable[[int, int, float], None]
    ) -> float:
        self.method.train()
        total = 0.0
        for step, places in enumerate(self._epoch_places(), start=1):
            batch = self._windows.batch(places, self._outputs)
            batch = augment(
                batch,
                self.method.problem,
                self._settings.gain,
                self._settings.noise,
                self._generator,
            ).to(self._device)
            value = self._train_step(batch)
            check_finite(value, f"epoch {epoch}", "fit.learning_rate")
            total += value
            done = (epoch - 1) * self._steps + step
            after_step(done, self._epochs * self._steps, value)
        return total / self._steps

    def _train_step(self, batch: Batch) -> float:
        """Take an optimiser step for each loss of the method; return the first."""
        values = []
        self.method.progress = self._optimisation.progress
        losses = self.method.losses(batch)
        while True:
            with self._optimisation.precision():
                loss = next(losses, None)
            if loss is None:
                break
            values.append(self._optimisation.step(loss))
        self._optimisation.advance()
        return values[0] if all(map(math.isfinite, values)) else math.nan

    def _epoch_places(self) -> list[list[Corner]]:
        """Draw the windows of an epoch: as many steps each time, whatever the shift."""
        if self._outputs == 1:
            return list(
                shuffled(self._windows.training_pixels(), self._batch, self._rng)
            )
        steps: list[list[Corner]] = []
        while len(steps) < self._steps:
            grid = self._windows.grid(self._outputs, self._rng)
            steps += shuffled(grid, self._batch, self._rng)
        return steps[: self._steps]

    @torch.no_grad()
    def _settle(self) -> None:
        """Measure batch statistics again, on the training windows, not augmented.

        Running averages lag behind the weights and have seen augmented windows only.
        A method that shows its network altered copies keeps the statistics of both:
        those of the windows alone are another function than the one that learned.
        Only the norms are in training mode, so that nothing is dropped: a network whose
        forms differ in training asks its norms. With validation pixels, the new
        statistics stay only if these agree.
        """
        network = self.method.network
        norms = [m for m in network.modules() if isinstance(m, _BatchNorm)]
        if not norms:
            return
        before = copy.deepcopy(self.method.state_dict())
        self.method.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over all batches
            norm.train()
        if self._outputs == 1:
            places = self._windows.training_pixels()
        else:
            places = self._windows.grid(self._outputs, None)
        # Whole batches, in an order that mixes the scene.
        rng = np.random.default_rng(0)
        for chosen in shuffled(places, self._batch, rng):
            cube = self._windows.batch(chosen, self._outputs).cube
            network(self.method.shown(cube.to(self._device)))
        for norm in norms:
            norm.momentum = 0.1
        self.method.eval()
        kappa, _ = self._validate()
        if kappa is not None and kappa < self.progress.best_kappa:
            self.method.load_state_dict(before)

    def _validate(self) -> tuple[float | None, float | None]:
        if not self._validates:
            return None, None
        matrix = self.score(Role.VALIDATION).confusion()
        return metrics.kappa(matrix), metrics.overall_accuracy(matrix)

    def score(self, role: Role) -> metrics.Scored:
        """Score the pixels of a role with the present weights."""
        return self.scorer.score(self._data, role)

    def save(self, path: Path) -> None:
        """Save all that `load` needs to continue as if it had not been interrupted."""
        progress = self.progress
        state: dict[str, Any] = {
            "method": self.method.state_dict(),
            **self._optimisation.state(),
            "numpy": self._rng.bit_generator.state,
            "generator": self._generator.get_state(),
            "history": [vars(e) for e in progress.history],
            "best_kappa": progress.best_kappa,
            "best_epoch": progress.best_epoch,
            "best": progress.best,
        }
        save_state(path, state, self.origin)

    def load(self, path: Path) -> None:
        """Continue where `save` was called.

        Raises:
            OutputError: The file is damaged.
            RecipeError: It is of a run with other data, settings or versions.
        """
        with loaded_state(path, self.origin) as state:
            self.method.load_state_dict(state["method"])
            self._optimisation.load(state)
            self._rng.bit_generator.state = state["numpy"]
            self._generator.set_state(state["generator"])
            self.progress = Progress(
                history=[Epoch(**e) for e in state["history"]],
                best_kappa=state["best_kappa"],
                best_epoch=state["best_epoch"],
                best=state["best"],
            )
