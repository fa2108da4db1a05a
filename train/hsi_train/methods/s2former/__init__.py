"""S2Former: a spectral-spatial transformer, pre-trained without labels.

After the abstract of Chao, Lv, Ma, Qiu, Fang, Shen, Yao, "Cross-Domain Transfer with
Self-Supervised Spectral-Spatial Modeling for Hyperspectral Image Classification",
arXiv 2601.18088, 2026. The abstract gives the parts: pre-training on other scenes
without labels; a spatial and a spectral branch coupled by cross-attention both ways;
random masking; frequency domain consistency (FDC), a loss on the high frequencies of
the Fourier magnitude; diffusion-aligned fine-tuning (DAFT), distillation along the
path on which a diffusion model denoises a feature. Every size, formula and setting is
ours; this is not a reproduction of the paper's numbers.

With few labels a pre-trained encoder stays frozen. Unlabelled pixels of the target show
how its features differ between neighbours, and a linear head is fitted that prefers
features that neighbours share. Left-out training pixels decide how much it counts
beside the linear path; `benchmarks/accuracy.py` measures what that adds, and how much
of it an encoder adds that was hardly trained. In an earlier version, neither FDC nor
DAFT did.

Differs from the paper: a pixel has one state a layer, one spatial and sixteen spectral
tokens, and attends to its real neighbours, so a window is classified densely; whole
pixels are masked, in both branches.

Bands of any sensor become 128 pseudo-bands by a fixed resampling of the band index, so
one encoder serves all sensors.

One paper, one folder: `network` is the encoder with its head, `pretraining` and
`distillation` are training only, `linear_head` fits the head where labels are few, and
`folded` is the form that is exported. This file puts them together.

Axes: tokens last, ``(batch, row, col, [group,] feature)``.
"""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hsi_runtime.errors import RecipeError
from hsi_train.fitting import statistics
from hsi_train.fitting.pretrain import Pretrainable
from hsi_train.method import IGNORED, Batch, Defaults, Problem, TrainingWindows
from hsi_train.methods.s2former import linear_head
from hsi_train.methods.s2former.distillation import Distillation, another_view, unit
from hsi_train.methods.s2former.folded import FoldedNetwork
from hsi_train.methods.s2former.network import (
    BLOCKS,
    FEATURES,
    REACH,
    Adapter,
    Network,
    Options,
)
from hsi_train.methods.s2former.pretraining import Pretraining
from hsi_train.processes.dealing import deal

FEW_LABELS = 1000  # up to so many, the head of a pre-trained encoder is fitted
CUT = 128  # windows encoded at once for the fit
AROUND, AROUND_SIDE = 32, 32  # number of unlabelled windows, and their outputs a side
FITTED_HEAD = Defaults(learning_rate=1e-3, trains=False)
DAFT = Defaults(learning_rate=1e-3, batch=30)
DENOISER_WARM_UP = 200  # steps


class Surroundings(NamedTuple):
    """Features of unlabelled pixels.

    Attributes:
        features: Shape ``(pixel, feature)``.
        steps: Covariance of the differences of neighbours, ``(feature, feature)``.
    """

    features: Tensor
    steps: Tensor


def neighbours_known(known: Tensor, axis: int) -> Tensor:
    """Return where a pixel and the next one along an axis are both known."""
    length = known.shape[axis] - 1
    return known.narrow(axis, 0, length) & known.narrow(axis, 1, length)


class Method(Pretrainable):
    """S2Former; from scratch, or on a pre-trained encoder."""

    receptive_field = 2 * BLOCKS * REACH + 1
    defaults = Defaults(learning_rate=1e-3, batch=30, masked=0.5)
    network: Network

    def __init__(self, problem: Problem, options: Options) -> None:
        super().__init__(problem, options.class_weighting)
        self._options = options
        self.network = Network(problem, options)
        self.pretraining = Pretraining(options)
        self.daft = Distillation(self.network) if options.daft else None

    @property
    def last_layer(self) -> nn.Module:
        return self.network.head.linear

    def folded_network(self) -> nn.Module:
        return FoldedNetwork(self.network)

    @property
    def encoder(self) -> nn.Module:
        """The part that pre-training trains and from which other runs may start."""
        return self.network.encoder

    @staticmethod
    def adapter(mean: Tensor, std: Tensor) -> nn.Module:
        return Adapter(mean, std)

    def pretraining_loss(self, cube: Tensor) -> Tensor:
        loss: Tensor = self.pretraining(partial(deal, self.encoder), cube)
        return loss

    @property
    def fits_head(self) -> bool:
        """Whether the head is fitted first: few labels, and a pre-trained encoder."""
        few = int(self.problem.class_counts.sum()) <= FEW_LABELS
        return self.pretrained and few

    def fit_defaults(self) -> Defaults:
        if self.fits_head:
            return FITTED_HEAD if self.daft is None else DAFT
        if self.daft is None:
            return self.defaults
        raise RecipeError(
            "options.daft tunes a pre-trained encoder with at most "
            f"{FEW_LABELS} training pixels; give --pretrain-scene or --init and few "
            "labels, or leave it out."
        )

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        slow = self._options.encoder_rate if self.fits_head else 1.0
        fast = list(self.network.head.parameters())
        if self.daft is not None:
            fast += self.daft.denoiser.parameters()
        return [
            {"params": list(self.encoder.parameters()), "lr": slow * learning_rate},
            {"params": fast, "lr": learning_rate},
        ]

    def prepare(self, windows: TrainingWindows) -> None:
        """Measure the features and fit the head before a pre-trained encoder moves."""
        if not self.fits_head:
            return
        places, head = windows.training_pixels(), self.network.head
        around = self._unlabelled(windows)
        features, classes = self._features(windows)
        head.measure(features if around is None else around.features)
        quiet = torch.eye(FEATURES).to(features)
        if around is not None:
            steps = around.steps * head.gain * head.gain[:, None]
            quiet = linear_head.quietening(steps).to(features)
        fitted = linear_head.fit(head.standardise(features) @ quiet, classes, places)
        with torch.no_grad():
            head.linear.weight.copy_(fitted.weight @ quiet)
            head.linear.bias.copy_(fitted.bias)
        if self.daft:
            self.daft.teacher.load_state_dict(self.network.state_dict())
            self._warm_up(self.daft, unit(head.standardise(features)))

    @torch.no_grad()
    def _unlabelled(self, windows: TrainingWindows) -> Surroundings | None:
        """Measure the features of unlabelled pixels of the scenes.

        The adapter's statistics become those of the pixels, as in pre-training. Nothing
        is measured where test and validation windows leave too few pixels.
        """
        rng = np.random.default_rng(int(torch.randint(2**31, ())))
        cut = list(windows.unlabelled(AROUND_SIDE, AROUND, rng))
        inside = slice(self.halo, -self.halo)
        inner = [cube[:, inside, inside][:, known] for cube, known in cut]
        if sum(spectra.shape[1] for spectra in inner) < FEATURES:
            return None
        spectra = np.concatenate(inner, axis=1).astype(np.float64)
        measured = statistics.mean_and_deviation(spectra)
        mean, std = (torch.from_numpy(values) for values in measured)
        network, device = self.network.eval(), self.class_weights.device
        network.adapter.load_state_dict(Adapter(mean, std).state_dict())
        steps = torch.zeros(FEATURES, FEATURES, dtype=torch.float64, device=device)
        features, count = [], 0
        for cube, known in cut:
            grid = network.features(torch.from_numpy(cube)[None].to(device))[0]
            mask = torch.from_numpy(known).to(device)
            features.append(grid[mask])
            for axis in (0, 1):
                change = grid.diff(dim=axis)[neighbours_known(mask, axis)].double()
                steps += change.T @ change
                count += len(change)
        return Surroundings(torch.cat(features), steps / max(count, 1))

    @torch.no_grad()
    def _features(self, windows: TrainingWindows) -> tuple[Tensor, Tensor]:
        """Compute features ``(pixel, feature)`` and classes of all training pixels."""
        self.network.eval()
        device = self.class_weights.device
        places = windows.training_pixels()
        features, classes = [], []
        for start in range(0, len(places), CUT):
            batch = windows.batch(places[start : start + CUT], 1).to(device)
            features.append(self.network.features(batch.cube)[:, 0, 0])
            classes.append(batch.classes[:, 0, 0])
        return torch.cat(features), torch.cat(classes)

    @staticmethod
    def _warm_up(daft: Distillation, features: Tensor) -> None:
        optimizer = torch.optim.AdamW(daft.denoiser.parameters(), lr=1e-3)
        for _ in range(DENOISER_WARM_UP):
            optimizer.zero_grad()
            daft.denoising_loss(features).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    def losses(self, batch: Batch) -> Iterator[Tensor]:
        if self.daft is None:
            yield self.loss(batch)
            return
        yield self._distilled(self.daft, batch)
        self.daft.follow(self.network, self._options.teacher_momentum)

    def _distilled(self, daft: Distillation, batch: Batch) -> Tensor:
        network, labelled = self.network, batch.classes != IGNORED
        # (batch, row, col, feature)
        features = deal(network.features, batch.cube)
        scores = network.head(features)
        loss = self.cross_entropy(scores.permute(0, 3, 1, 2), batch)
        if not labelled.any():
            return loss
        with torch.no_grad():
            theirs_of = partial(deal, daft.teacher.eval().features)
            seen = another_view(theirs_of, batch.cube)
            their_scores = daft.teacher.head(seen)[labelled]
            theirs = unit(daft.teacher.head.standardise(seen)[labelled])
        ours = unit(network.head.standardise(features)[labelled])  # (pixel, feature)
        path, steps = daft.trajectory_losses(ours, theirs)
        soft = F.kl_div(
            F.log_softmax(scores[labelled] / 2, dim=-1),
            F.log_softmax(their_scores / 2, dim=-1),
            log_target=True,
            reduction="batchmean",
        )
        # Late enough for the student's trajectory to be worth comparing.
        ramp = math.exp(-5 * (1 - min(1.0, self.progress / 0.3)) ** 2)
        agreement = 0.5 * path + 0.5 * steps + 0.5 * 4 * soft
        return loss + ramp * agreement + daft.denoising_loss(theirs)
