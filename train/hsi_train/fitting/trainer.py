"""The training loop: windows in, the best weights out."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.modules.batchnorm import _BatchNorm

from hsi_runtime.model.model_file import PROBABILITIES
from hsi_train.data.labelled_scene import LabelledData
from hsi_train.data.roles import Role
from hsi_train.fitting.length.budget import Budget
from hsi_train.fitting.length.schedule import Schedule
from hsi_train.fitting.optimisation import Optimisation, check_finite
from hsi_train.fitting.predict import Scorer
from hsi_train.fitting.progress import DECAYING, Epoch, Measured, Progress
from hsi_train.fitting.resume_state import Origin, loaded_state, save_state
from hsi_train.fitting.settings import Settings, steps_of_pass
from hsi_train.fitting.windows import Windows, augment, shuffled
from hsi_train.linear.balance import choose_factor
from hsi_train.linear.folds import blocked_folds
from hsi_train.linear.gate import Gate, choose_gate, loss_of, unjudged_classes
from hsi_train.measuring import metrics
from hsi_train.method import BaseMethod, Batch, Corner
from hsi_train.processes import layers
from hsi_train.processes.dealing import deal
from hsi_train.processes.group import of_first

GAIN = 0.005  # share by which the loss must fall to count as better
LEAST_GAIN = 0.001  # and by how much; a loss near zero may be halved again and again
AVERAGED = 0.99  # how much of the mean weights a step keeps
SETTLING = 30  # batches on which batch statistics are measured anew
PASS_SHARE = 0.4  # of the time of a step that a batch takes which is only measured


class Trainer:
    """Trains one method, round by round, and can be saved between rounds.

    A round is a pass over the training windows where the recipe gives their number.
    Otherwise it is a hundred steps, and training goes on at a steady rate until
    validation has not become better for ``patience`` rounds; then the rate decays. The
    mean of the weights over the last steps is what is measured and kept: at a steady
    rate it is as good as the end of a schedule, so no length need be known in advance
    (Polyak, Juditsky, SIAM J. Control Optim. 30(4), 1992).

    Attributes:
        method: What is trained.
        validates: True if there are validation pixels.
        scorer: Scores scenes with the present weights.
        schedule: Learning rate and end of the training.
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
        layers.prepare(self.method)
        self._data, self._windows = data, windows
        self.origin = origin or {}
        self._settings, self._device = settings, device
        self._rng = np.random.default_rng(seed)
        self._generator = torch.Generator().manual_seed(seed)
        self.validates = any((s.roles == Role.VALIDATION).any() for s in data.scenes)
        passed = steps_of_pass(windows, settings)
        self.schedule = Schedule(settings, passed, self.validates)
        self._scoring = 0.0  # seconds that the validation pixels take
        self._optimisation = Optimisation(
            method.parameters(),
            method.parameter_groups(settings.learning_rate),
            schedule=lambda optimizer: torch.optim.lr_scheduler.LambdaLR(
                optimizer, self.schedule.rate
            ),
            device=device,
            weight_decay=settings.weight_decay,
        )
        self.scorer = Scorer.of_method(method, device)
        if self.validates and method.path is not None:
            held_out = data.pixels_by_role()[:, Role.VALIDATION]
            method.path.unjudged = unjudged_classes(held_out)

    @property
    def trains(self) -> bool:
        """Whether there is anything to train."""
        return self._settings.epochs != 0

    @property
    def left_out(self) -> bool:
        """Whether nothing of the network is in the model, whatever it learns."""
        path, scores_only = self.method.path, self.method.outputs == (PROBABILITIES,)
        return path is not None and path.shut and scores_only and not self.validates

    @property
    def progress(self) -> Progress:
        """What is finished so far."""
        return self.schedule.progress

    @property
    def precision(self) -> str:
        """Type in which products are computed; weights and sums are fp32."""
        return "bf16" if self._optimisation.bf16 else "fp32"

    def allow(self, budget: Budget, share: float = 1.0) -> None:
        """Train within a share of what is left of a budget; call it after `load`."""
        self.schedule.allow(budget, share)
        if self.validates:
            began = time.monotonic()
            self.score(Role.VALIDATION)
            self._scoring = of_first(time.monotonic() - began)

    def prepare(self) -> None:
        """Let the method look at the training windows, before the first step."""
        self.method.prepare(self._windows)
        self.method.to(self._device)

    def run(
        self,
        after_epoch: Callable[[Epoch], None] = lambda _: None,
        after_step: Callable[[int, int, float], None] = lambda *_: None,
    ) -> None:
        """Train to the end and load the best weights.

        With validation pixels, the weights of the round with the least loss win, and
        how much rare classes count is chosen; without, the last. Test pixels have no
        say.

        Args:
            after_epoch: Called with each finished round; may save the trainer.
            after_step: Called with finished steps, all steps as far as they are known,
                and the loss.
        """
        progress = self.progress
        while not self.schedule.finished:
            epoch = len(progress.history) + 1
            started = time.monotonic()
            loss = self._train_round(epoch, after_step)
            trained = time.monotonic()
            measured = self._measure() if self.validates else None
            if measured is not None:
                self._keep(measured, epoch)
                if (allowed := self.schedule.allowance) is not None:
                    allowed.measuring = of_first(time.monotonic() - trained)
            progress.history.append(
                Epoch(
                    epoch=epoch,
                    loss=loss,
                    learning_rate=self._optimisation.learning_rate,
                    validation_kappa=measured and measured.kappa,
                    validation_accuracy=measured and measured.accuracy,
                    seconds=time.monotonic() - started,
                    validation_loss=measured and measured.gate.loss,
                )
            )
            self.schedule.plan_end(epoch)
            after_epoch(progress.history[-1])
        if progress.best is not None:
            self.method.load_state_dict(progress.best)
        elif progress.mean is not None:
            self._settle()
        self.method.eval()
        if self.validates:
            self._balance()

    def _balance(self) -> None:
        """Let rare classes count for more where the validation pixels lose nothing."""
        probabilities = self.method.probabilities
        probabilities.balance.fill_(0.0)
        found = self.score(Role.VALIDATION)
        assert found.places is not None
        folds = blocked_folds(found.places, found.classes)
        log_shares = probabilities.log_shares.cpu().numpy()
        factor = choose_factor(found.scores, found.classes, log_shares, folds)
        probabilities.balance.fill_(factor)

    def _keep(self, measured: Measured, epoch: int) -> None:
        progress, loss = self.progress, measured.gate.loss
        best = progress.best_loss
        if loss < min((1 - GAIN) * best, best - LEAST_GAIN):
            progress.improved = epoch
        if loss <= progress.best_loss:
            progress.best_loss, progress.best_epoch = loss, epoch
            progress.best = measured.state

    def _train_round(
        self, epoch: int, after_step: Callable[[int, int, float], None]
    ) -> float:
        self.method.train()
        schedule, progress = self.schedule, self.progress
        began = time.monotonic()
        total = 0.0
        for step, places in enumerate(self._round_places(), start=1):
            if progress.decayed is None and schedule.phase == DECAYING:
                progress.decayed = progress.steps
            batch = self._with_path(self._windows.batch(places, self._settings.outputs))
            batch = augment(
                batch,
                self.method.problem,
                self._settings.gain,
                self._settings.noise,
                self._generator,
                self._settings.masked,
            ).to(self._device)
            share = progress.steps / schedule.expected_steps(epoch)
            self.method.progress = min(1.0, share)
            value = self._train_step(batch)
            check_finite(value, f"epoch {epoch}", "fit.learning_rate")
            progress.steps += 1
            self._average(progress.steps)
            total += value
            after_step(progress.steps, schedule.expected_steps(epoch), value)
            if schedule.allowance is not None and epoch == 1:
                took = of_first(time.monotonic() - began) / step
                settling = PASS_SHARE * SETTLING * took
                schedule.allowance.measuring = 2 * self._scoring + settling
            if schedule.time_is_up:
                break
        return total / step

    @torch.no_grad()
    def _with_path(self, batch: Batch) -> Batch:
        """Add what the linear path says of the windows as they are."""
        path = self.method.path
        if path is None or path.apart:
            return batch
        linear = deal(path, batch.cube.to(self._device))
        return batch._replace(linear=linear.cpu())

    def _train_step(self, batch: Batch) -> float:
        """Take an optimiser step for each loss of the method; return the first."""
        values = []
        losses = self.method.losses(batch)
        while True:
            with self._optimisation.precision():
                loss = next(losses, None)
            if loss is None:
                break
            values.append(self._optimisation.step(loss))
        self._optimisation.advance()
        return values[0] if all(map(math.isfinite, values)) else math.nan

    def _round_places(self) -> list[list[Corner]]:
        """Draw the windows of a round: as many steps each time, whatever the shift."""
        outputs, batch = self._settings.outputs, self._settings.batch
        steps: list[list[Corner]] = []
        while len(steps) < self.schedule.steps:
            if outputs == 1:
                places = self._windows.training_pixels()
            else:
                places = self._windows.grid(outputs, self._rng)
            steps += shuffled(places, batch, self._rng)
        return steps[: self.schedule.steps]

    @torch.no_grad()
    def _average(self, done: int) -> None:
        """Add the present weights to their running mean; early ones are forgotten."""
        state = self.method.state_dict()
        mean = self.progress.mean
        if mean is None:
            self.progress.mean = {k: v.detach().clone() for k, v in state.items()}
            return
        share = 1 - min(AVERAGED, done / (done + 9))
        for name, value in state.items():
            if value.dtype.is_floating_point:
                mean[name].lerp_(value.detach(), share)
            else:
                mean[name].copy_(value)

    @cached_property
    def _scores_of_path(self) -> NDArray[np.float32]:
        """Validation scores of the linear path alone, which never change."""
        assert self.method.path is not None
        scorer = replace(self.scorer, network=self.method.path)
        return scorer.score(self._data, Role.VALIDATION).scores

    def held_out_scores(
        self,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int16]]:
        """Score the validation pixels by the linear path, and by the network alone.

        Returns:
            Scores of each, ``(pixel, class)``, and class indices ``(pixel,)``.
        """
        network = replace(self.scorer, network=self.method.network)
        found = network.score(self._data, Role.VALIDATION)
        return self._scores_of_path, found.scores, found.classes

    def _measure(self) -> Measured:
        """Measure the mean weights on the validation pixels; training goes on after."""
        method, path = self.method, self.method.path
        present = {k: v.detach().clone() for k, v in method.state_dict().items()}
        self._settle()
        if path is None:
            found = self.score(Role.VALIDATION)
            gate = Gate(1.0, loss_of(found.scores, found.classes))
        else:
            alone = self._scores_of_path
            path.gate.fill_(1.0)
            found = self.score(Role.VALIDATION)
            gate = choose_gate(alone, found.scores - alone, found.classes)
            path.gate.fill_(gate.factor)
            scores = alone + gate.factor * (found.scores - alone)
            found = metrics.Scored(scores, found.classes)
        matrix = found.confusion()
        state = {k: v.detach().cpu().clone() for k, v in method.state_dict().items()}
        method.load_state_dict(present)
        return Measured(
            state=state,
            gate=gate,
            kappa=metrics.kappa(matrix),
            accuracy=metrics.overall_accuracy(matrix),
        )

    @torch.no_grad()
    def _settle(self) -> None:
        """Load the mean weights, and measure their batch statistics.

        Running averages belong to other weights and have seen augmented windows only.
        A method that shows its network altered copies keeps the statistics of both:
        those of the windows alone are another function than the one that learned. Only
        the norms are in training mode, so that nothing is dropped: a network whose
        forms differ in training asks its norms.
        """
        assert self.progress.mean is not None
        method, network = self.method, self.method.network
        method.load_state_dict(self.progress.mean)
        method.fold_constants()
        method.eval()
        norms = [m for m in network.modules() if isinstance(m, _BatchNorm)]
        if not norms:
            return
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over all batches
            norm.train()
        outputs = self._settings.outputs
        if outputs == 1:
            places = self._windows.training_pixels()
        else:
            places = self._windows.grid(outputs, None)
        # Whole batches, in an order that mixes the scene.
        batches = shuffled(places, self._settings.batch, np.random.default_rng(0))
        for chosen, _ in zip(batches, range(SETTLING), strict=False):
            cube = self._windows.batch(chosen, outputs).cube
            deal(network, method.shown(cube.to(self._device)))
        for norm in norms:
            norm.momentum = 0.1
        method.eval()

    @property
    def shut_out(self) -> str | None:
        """A sentence where nothing of the network is in the map, or None."""
        path = self.method.path
        if path is None or not path.shut:
            return None
        return (
            "On held-out pixels the network did not improve on its linear path, or too "
            "few could be held out to tell: the map is the linear path's. More labels "
            "may change that; --set fit.linear_path=false is the network alone."
        )

    def summary(self) -> dict[str, Any]:
        """Return how long was trained, as ``metrics.json`` holds it."""
        path = self.method.path
        gate = None if path is None else float(path.gate)
        return self.schedule.summary() | {
            "precision": self.precision,
            "gate": gate,
            "unjudged": [] if path is None else list(path.unjudged),
            "balance": float(self.method.probabilities.balance),
        }

    def score(self, role: Role) -> metrics.Scored:
        """Score the pixels of a role with the present weights."""
        return self.scorer.score(self._data, role)

    def save(self, path: Path) -> None:
        """Save all that `load` needs to go on as if nothing had happened."""
        if self.schedule.allowance is not None:
            self.progress.spent = self.schedule.allowance.budget.used
        state: dict[str, Any] = {
            "method": self.method.state_dict(),
            **self._optimisation.state(),
            "numpy": self._rng.bit_generator.state,
            "generator": self._generator.get_state(),
            **vars(self.progress),
            "history": [vars(e) for e in self.progress.history],
        }
        save_state(path, state, self.origin)

    def load(self, path: Path) -> None:
        """Go on where `save` was called.

        Raises:
            OutputError: The file is damaged.
            RecipeError: It is of a run with other data, settings or versions.
        """
        with loaded_state(path, self.origin) as state:
            self.method.load_state_dict(state["method"])
            names = Progress.__dataclass_fields__
            progress = Progress(**{name: state[name] for name in names})
            progress.history = [Epoch(**e) for e in state["history"]]
            self.schedule.progress = progress
            self._optimisation.load(state)
            self._rng.bit_generator.state = state["numpy"]
            self._generator.set_state(state["generator"])
