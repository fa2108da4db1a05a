"""S2VNet: classification with unmixing; every class has an endmember.

After the abstract and the published behaviour of Han, Yang, Gao, Zeng, Zhang,
Chanussot, "Subpixel Spectral Variability Network for Hyperspectral Image
Classification", IEEE TGRS 63, 2025, doi 10.1109/TGRS.2025.3535749. A pointwise
autoencoder splits each pixel into abundances of K endmembers, one for each class; a
small variational network varies the endmembers during training. Abundances around the
pixel, spatial features (convolutions and retention: attention whose reach decays with
distance) and the cosine between the local mean spectrum and each endmember are fused
into the class scores.

Differs from the paper:

- every spatial operator is valid (no zero padding), so a window is classified densely
  and each pixel sees its real neighbours; the pixel's own state is classified;
- endmembers are a function of trained weights (softplus, unit peak), and evaluation
  takes the mean of the variational network: nothing random, nothing replaced;
- an anchor ties the abundance of a labelled pixel's class to its label; without it
  abundances carry no meaning as classes;
- the nonlinear term pays for its size, so that it completes the mixture and leaves
  the explaining to the endmembers (a sparse residual term, as in Fevotte, Dobigeon,
  IEEE TIP 24, 2015); free, it drew them away from the materials;
- the cosine is a true one, of the linear mixture ``E A``. The mean of ``E A`` is ``E``
  times the mean of ``A``, so the exported graph needs only K x K constants;
- no gate: the published one makes a pixel's class depend on the rest of the batch.

Symbols: B bands, K classes, A abundances, E endmembers ``(band, endmember)``. An
abundance is a share under the convention that every endmember peaks at one.
"""

import copy
import math
from collections.abc import Iterator
from functools import partial, reduce
from typing import Annotated, NamedTuple

import msgspec
import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from hsi_runtime.model.model_file import ABUNDANCES, PROBABILITIES
from hsi_train.layers import (
    LinearPath,
    Probabilities,
    Standardise,
    class_softmax,
    crop_to,
    fold_standardise,
    norm_affine,
)
from hsi_train.method import IGNORED, BaseMethod, Batch, Defaults, Problem
from hsi_train.processes.dealing import deal

CHANNELS, HEADS = 32, 4
REACH = 3  # pixels to each side that retention attends to
LATENT, HIDDEN = 4, 96  # sizes in the variational network
PERTURBATION = 0.1  # largest shift of an endmember, as a share of the mean of W
FLOOR = 1e-3  # smallest initial W, so that softplus has a gradient there

Weight = Annotated[float, Meta(ge=0, le=1e3)]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ``[options]`` table of a recipe.

    Attributes:
        cosine: Compare the local mean spectrum with the endmembers.
        nonlinear_decoder: Complete the reconstruction by a nonlinear term; training
            only.
        nonlinear_weight: Weight of that term's size relative to the linear mixture.
            The term reduces the angle by its size at most; from 1 on it would not pay.
        variability: Vary the endmembers during training.
        anchor_weight: Weight of the term that makes abundances agree with labels; 0.1
            left them erratic (SalinasA).
        kl_weight: Weight of the Kullback-Leibler divergence of the variational network.
        tv_weight: Weight of the total variation of abundances in space and of
            perturbations along the used bands.
        class_weighting: 0 weights all training pixels equally, 1 all classes.
    """

    cosine: bool = True
    nonlinear_decoder: bool = True
    nonlinear_weight: Weight = 0.1
    variability: bool = True
    anchor_weight: Weight = 0.3
    kl_weight: Weight = 0.01
    tv_weight: Weight = 0.01
    class_weighting: Annotated[float, Meta(ge=0, le=1)] = 0.25


class LayerNorm2d(nn.LayerNorm):
    """Layer normalisation over the channels of each pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, features: Tensor) -> Tensor:
        """Keep the shape ``(batch, channel, row, col)``."""
        last: Tensor = super().forward(features.movedim(1, -1))
        return last.movedim(-1, 1)


class Retention(nn.Module):
    """Attention along the row, then along the column, weaker with distance.

    Every pixel looks `REACH` real pixels to each side. Head i adds
    ``|offset| log(1 - 2^(-2 - i))`` to its similarities. Shifted slices instead of
    gathered patches: no neighbour is copied.
    """

    similarity: Tensor
    decay: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.queries_keys_values = nn.Conv2d(CHANNELS, 3 * CHANNELS, 1)
        self.local = nn.Conv2d(CHANNELS, CHANNELS, 3, groups=CHANNELS)
        self.mix = nn.Conv2d(CHANNELS, CHANNELS, 1)
        width = CHANNELS // HEADS
        heads = torch.eye(HEADS).repeat_interleave(width, dim=1)  # (head, channel)
        offsets = torch.arange(-REACH, REACH + 1).abs()
        rates = torch.log(1 - 2.0 ** (-2 - torch.arange(HEADS)))
        constants = {
            "similarity": heads[..., None, None] / math.sqrt(width),
            "decay": offsets[:, None] * rates,  # (offset, head)
        }
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(batch, channel, row, col)`` to rows and columns less six."""
        q, k, v = self.queries_keys_values(features).chunk(3, dim=1)
        rows, cols = features.shape[-2] - 2 * REACH, features.shape[-1] - 2 * REACH
        attended = self._look(q, k, v, dim=-1)  # (batch, channel, row, col - 6)
        q, k = (crop_to(x, x.shape[-2], cols) for x in (q, k))
        attended = self._look(q, k, attended, dim=-2)  # (batch, channel, ...) - 6
        mixed: Tensor = self.mix(attended + crop_to(self.local(v), rows, cols))
        return mixed

    def _look(self, q: Tensor, k: Tensor, v: Tensor, dim: int) -> Tensor:
        size = v.shape[dim] - 2 * REACH
        q = q.narrow(dim, REACH, size)
        scores = [
            F.conv2d(q * k.narrow(dim, shift, size), self.similarity, decay)
            for shift, decay in enumerate(self.decay)
        ]  # (batch, head, row, col) for each offset
        top = reduce(torch.maximum, scores)
        weights = [torch.exp(score - top) for score in scores]
        inverse = 1 / reduce(torch.add, weights)
        by_head = torch.unflatten(v, 1, (HEADS, -1))  # (batch, head, feature, ...)
        # A head's share counts for all its features: no copy of it for each.
        parts = [
            (weight * inverse)[:, :, None] * by_head.narrow(dim, shift, size)
            for shift, weight in enumerate(weights)
        ]
        return reduce(torch.add, parts).flatten(1, 2)


class NormedScores(nn.Module):
    """Batch norm, then a 1x1 convolution; a single convolution in evaluation.

    An exporter folds a norm into the convolution before it; here there is none.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.layer = nn.Conv2d(channels, classes, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(batch, channel, row, col)`` to ``(batch, class, row, col)``."""
        norm, layer = self.norm, self.layer
        if norm.training:
            scores: Tensor = layer(norm(features))
            return scores
        assert layer.bias is not None
        gain, offset = norm_affine(norm)
        shift = F.conv2d(offset[None, :, None, None], layer.weight)
        bias = layer.bias + shift.flatten()
        return F.conv2d(features, layer.weight * gain[:, None, None], bias)


class SpatialNetwork(nn.Module):
    """Convolution stem, retention, feed-forward layers, class scores of a pixel."""

    def __init__(self, bands: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(bands, CHANNELS // 2, 3),
            nn.BatchNorm2d(CHANNELS // 2),
            nn.GELU(),
            nn.Conv2d(CHANNELS // 2, CHANNELS, 3),
            nn.BatchNorm2d(CHANNELS),
        )
        self.retention = nn.Sequential(LayerNorm2d(CHANNELS), Retention())
        self.feed_forward = nn.Sequential(
            LayerNorm2d(CHANNELS),
            nn.Conv2d(CHANNELS, 2 * CHANNELS, 1),
            nn.GELU(),
            nn.Conv2d(2 * CHANNELS, CHANNELS, 1),
        )
        self.head = NormedScores(CHANNELS, classes)
        for part in (self.retention, self.feed_forward):
            for layer in part.modules():
                if isinstance(layer, nn.Conv2d) and layer.groups == 1:
                    nn.init.trunc_normal_(layer.weight, std=0.02)
                    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, standardised: Tensor) -> Tensor:
        """Map ``(batch, band, row, col)`` to scores, ten rows and columns fewer."""
        x = self.stem(standardised)
        attended = self.retention(x)
        x = crop_to(x, *attended.shape[-2:]) + attended
        scores: Tensor = self.head(x + self.feed_forward(x))
        return scores


class Constants(NamedTuple):
    """The constants that the cosine computes from endmembers.

    Attributes:
        gram: ``E^T E``, shape ``(endmember, endmember)``.
        norms: Length of each endmember, shape ``(endmember,)``.
    """

    gram: Tensor
    norms: Tensor


def fold(endmembers: Tensor) -> Constants:
    """Compute the constants of endmembers ``(band, endmember)``."""
    return Constants(endmembers.T @ endmembers, endmembers.norm(dim=0))


class Cosine(nn.Module):
    """Cosine between the mean mixture of 7 x 7 pixels and each endmember.

    With E >= 0 of unit peak, ``a^T G a >= 1 / K``: the root needs no epsilon.
    """

    gram: Tensor
    norms: Tensor

    def __init__(self, endmembers: Tensor) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(5.0))
        for name, value in fold(endmembers)._asdict().items():
            self.register_buffer(name, value)

    def cosines(self, abundances: Tensor, constants: Constants) -> Tensor:
        """Map ``(batch, endmember, row, col)`` to rows and columns less six."""
        mean = F.avg_pool2d(abundances, 7, stride=1)
        projected = F.conv2d(mean, constants.gram[..., None, None])
        energy = (mean * projected).sum(dim=1, keepdim=True)
        return projected / (energy.sqrt() * constants.norms[:, None, None])

    def forward(self, abundances: Tensor, constants: Constants | None) -> Tensor:
        """Return centred, scaled cosines, by the folded constants unless given."""
        constants = constants or Constants(self.gram, self.norms)
        cosines = self.cosines(abundances, constants)
        return self.scale * (cosines - cosines.mean(dim=1, keepdim=True))


class Network(nn.Module):
    """From a cube to class scores, with ten rows and columns fewer."""

    scale: Tensor

    def __init__(self, problem: Problem, endmembers: Tensor, cosine: bool) -> None:
        super().__init__()
        bands, classes = len(problem.band_mean), len(problem.class_counts)
        first, second = max(bands // 2, classes), max(bands // 4, classes)
        # Values without a positive one have no brightness to scale by.
        top = problem.top if problem.top > 0 else torch.ones(())
        self.register_buffer("scale", top.float())
        self.standardise: nn.Module = Standardise(problem.band_mean, problem.band_std)
        self.encoder = nn.Sequential(
            nn.Conv2d(bands, first, 1),
            nn.BatchNorm2d(first),
            nn.ReLU(),
            nn.Conv2d(first, second, 1),
            nn.BatchNorm2d(second),
            nn.ReLU(),
            nn.Conv2d(second, classes, 1),
        )
        self.spatial = SpatialNetwork(bands, classes)
        self.neighbourhood = nn.Sequential(
            nn.Conv2d(classes, classes, 3, bias=False),
            nn.BatchNorm2d(classes),
            nn.ReLU(),
            nn.Conv2d(classes, classes, 3, dilation=2),
        )
        self.cosine = Cosine(endmembers) if cosine else None
        self.fuse_spatial = nn.Conv2d(classes, classes, 1)
        self.fuse = nn.Conv2d((1 + cosine) * classes, classes, 1)

    def forward(self, cube: Tensor) -> Tensor:
        """Map a cube in stored units to class scores."""
        return self.scores(cube, self.abundances(cube))

    def abundances(self, cube: Tensor) -> Tensor:
        """Unmix every pixel: ``(batch, band, ...)`` to ``(batch, endmember, ...)``."""
        return class_softmax(self.encoder(cube / self.scale))

    def scores(
        self, cube: Tensor, abundances: Tensor, constants: Constants | None = None
    ) -> Tensor:
        """Classify pixels whose abundances are known.

        Args:
            cube: Stored units, shape ``(batch, band, row, col)``.
            abundances: Abundances of the same pixels, shape
                ``(batch, endmember, row, col)``.
            constants: Constants of other endmembers than the folded ones.

        Returns:
            Class scores, shape ``(batch, class, row - 10, col - 10)``.
        """
        spatial = self.fuse_spatial(self.spatial(self.standardise(cube)))
        around = crop_to(abundances, cube.shape[-2] - 4, cube.shape[-1] - 4)
        fused = self.neighbourhood(around) + spatial
        if self.cosine is not None:
            fused = torch.cat([fused, self.cosine(around, constants)], dim=1)
        scores: Tensor = self.fuse(fused)
        return scores


class UnmixingGraph(nn.Module):
    """The exported function: from a cube to class probabilities and abundances."""

    def __init__(
        self, network: Network, probabilities: Probabilities, path: LinearPath | None
    ) -> None:
        super().__init__()
        self.network = network
        self.probabilities = probabilities
        self.path = path

    def forward(self, cube: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``(batch, band, height, width)`` to two ``(batch, class, ...)``.

        Height and width of both shrink by twice the halo.
        """
        abundances = self.network.abundances(cube)
        scores = self.network.scores(cube, abundances)
        own = crop_to(abundances, *scores.shape[-2:])
        if self.path is not None:
            scores = self.path.joined(cube, scores)
        return self.probabilities(scores), own


def folded(network: Network) -> Network:
    """Copy a network, with its preprocessing folded into the first layers.

    Both branches then read the stored values.
    """
    twin = copy.deepcopy(network)
    stem, encoder = twin.spatial.stem[0], twin.encoder[0]
    assert isinstance(stem, nn.Conv2d)
    assert isinstance(encoder, nn.Conv2d)
    assert isinstance(twin.standardise, Standardise)
    fold_standardise(stem, twin.standardise)
    twin.standardise = nn.Identity()
    with torch.no_grad():
        encoder.weight.div_(twin.scale)
    twin.scale.fill_(1)
    return twin


class Variation(NamedTuple):
    """Variation of the endmembers; all of shape ``(band, ...)``.

    Attributes:
        scale: Factors of W, shape ``(band, endmember)``.
        shift: Addends to W, shape ``(band, endmember)``.
        mean: Mean of the latent distribution, shape ``(band, latent)``.
        log_variance: Log variance of the latent distribution, ``(band, latent)``.
    """

    scale: Tensor
    shift: Tensor
    mean: Tensor
    log_variance: Tensor


class Variability(nn.Module):
    """A variational network over the bands that scales and shifts endmembers."""

    def __init__(self, endmembers: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(endmembers, endmembers)
        self.mean = nn.Linear(endmembers, LATENT)
        self.log_variance = nn.Linear(endmembers, LATENT)
        self.scale = nn.Sequential(
            nn.Linear(LATENT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, endmembers)
        )
        self.shift = nn.Linear(endmembers, endmembers)
        for layer in (self.scale[-1], self.shift):  # scale 1, shift 0 at first
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, spectra: Tensor, sample: bool) -> Variation:
        """Vary ``(band, endmember)`` by a latent sample, or by the latent mean."""
        rows = F.layer_norm(spectra.T, spectra.shape[:1]).T  # each column standardised
        hidden = F.relu(self.hidden(rows))
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        latent = mean
        if sample:
            latent = mean + torch.randn_like(mean) * torch.exp(log_variance / 2)
        scale = 2 * torch.sigmoid(self.scale(latent))
        shift = PERTURBATION * spectra.mean() * torch.tanh(self.shift(rows))
        return Variation(scale, shift, mean, log_variance)


class NonlinearTerm(nn.Module):
    """The nonlinear part of a mixture; zero at first."""

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(bands, bands, 1), nn.Sigmoid(), nn.Conv2d(bands, bands, 1)
        )
        nn.init.zeros_(self.layers[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.layers[-1].bias)  # type: ignore[arg-type]

    def forward(self, mixture: Tensor) -> Tensor:
        """Keep the shape ``(batch, band, row, col)``."""
        term: Tensor = self.layers(mixture)
        return term


class Unmixing(NamedTuple):
    """One pass of the autoencoder in training.

    Attributes:
        loss: Spectral angle and regularisation, no axes.
        abundances: Abundances of all pixels, shape ``(batch, endmember, row, col)``.
        endmembers: Endmembers as varied in this pass, shape ``(band, endmember)``.
    """

    loss: Tensor
    abundances: Tensor
    endmembers: Tensor


class Method(BaseMethod):
    """S2VNet; endmember weights, variability and decoder exist for training only."""

    receptive_field = 11
    outputs = (PROBABILITIES, ABUNDANCES)
    defaults = Defaults(learning_rate=4e-3, weight_decay=1e-4, noise=0.02, batch=30)
    network: Network

    def __init__(self, problem: Problem, options: Options) -> None:
        super().__init__(problem, options.class_weighting)
        self.options = options
        bands, classes = len(problem.band_mean), len(problem.class_counts)
        self.theta = nn.Parameter(initial_theta(problem.class_means))
        self.variability = Variability(classes) if options.variability else None
        self.nonlinear = NonlinearTerm(bands) if options.nonlinear_decoder else None
        with torch.no_grad():
            self.network = Network(problem, self._vary(False)[0], options.cosine)

    @property
    def last_layer(self) -> nn.Module:
        return self.network.fuse

    def _vary(self, sample: bool) -> tuple[Tensor, Variation | None]:
        """Vary the endmembers ``(band, endmember)`` and scale them to unit peak."""
        spectra = F.softplus(self.theta)
        variation = None
        if self.variability is not None:
            variation = self.variability(spectra, sample)
            spectra = F.relu(spectra * variation.scale + variation.shift)
        return spectra / spectra.amax(dim=0).clamp(min=1e-6), variation

    @torch.no_grad()
    def endmembers(self) -> Tensor:
        return self._vary(False)[0].T

    def losses(self, batch: Batch) -> Iterator[Tensor]:
        """Yield the one loss; then fold the changed endmembers into the network.

        So the network's constants always match the weights when it is evaluated,
        copied or saved next.
        """
        # The angle and the cosine need more digits than bf16 has.
        exact = torch.autocast(batch.cube.device.type, enabled=False)
        with exact:
            total = self._objective(batch)
        yield total
        with exact:
            self.fold_constants()

    @torch.no_grad()
    def fold_constants(self) -> None:
        if self.network.cosine is not None:
            constants = fold(self._vary(False)[0])
            self.network.cosine.gram.copy_(constants.gram)
            self.network.cosine.norms.copy_(constants.norms)

    def _objective(self, batch: Batch) -> Tensor:
        unmixed = self.unmix(batch.cube)
        constants = fold(unmixed.endmembers)
        classify = partial(self.network.scores, constants=constants)
        scores = deal(classify, batch.cube, unmixed.abundances)
        own = crop_to(unmixed.abundances, *scores.shape[-2:])
        anchored = self.options.anchor_weight * label_loss(own, batch.classes)
        return self.cross_entropy(scores, batch) + unmixed.loss + anchored

    def unmix(self, cube: Tensor) -> Unmixing:
        """Unmix and reconstruct a cube, with varied endmembers and without labels.

        Args:
            cube: Stored units, shape ``(batch, band, row, col)``.
        """
        endmembers, variation = self._vary(sample=True)
        reconstruct = partial(self._reconstruct, endmembers)
        abundances, angles, *sizes = deal(reconstruct, cube)
        loss = self.options.tv_weight * roughness(abundances)
        for size in sizes:
            loss = loss + self.options.nonlinear_weight * size.mean()
        loss = loss + angles.mean()
        if variation is not None:
            loss = loss + self.options.kl_weight * divergence(variation)
            # Used bands are compared with the next one, also across dropped bands.
            steps = variation.shift.diff(dim=0).abs()
            loss = loss + self.options.tv_weight * steps.sum() / max(steps.numel(), 1)
        return Unmixing(loss, abundances, endmembers)

    def _reconstruct(self, endmembers: Tensor, cube: Tensor) -> tuple[Tensor, ...]:
        """Unmix a cube and mix it again.

        Args:
            endmembers: Shape ``(band, endmember)``.
            cube: Stored units, shape ``(batch, band, row, col)``.

        Returns:
            Abundances ``(batch, endmember, row, col)``; the angle between each spectrum
            and its reconstruction, ``(batch, row, col)``; and the relative size of the
            nonlinear part, if there is one, shaped like the angles.
        """
        abundances = self.network.abundances(cube)
        linear = F.conv2d(abundances, endmembers[..., None, None])
        spectra = cube / self.network.scale
        if self.nonlinear is None:
            return abundances, spectral_angles(spectra, linear)
        term = self.nonlinear(linear)
        angles = spectral_angles(spectra, linear + term)
        return abundances, angles, relative_sizes(term, linear)

    def inference_graph(self) -> nn.Module:
        return UnmixingGraph(self.network, self.probabilities, self.path)

    def folded_graph(self) -> nn.Module:
        network = folded(self.network)
        return UnmixingGraph(network, self.probabilities, self.path)


def initial_theta(class_means: Tensor) -> Tensor:
    """Start at the class means, unit peak: the inverse of softplus.

    Args:
        class_means: Shape ``(class, band)``.

    Returns:
        Shape ``(band, endmember)``.
    """
    means = class_means.T.double().clamp(min=0)
    peaks = means.amax(dim=0).clamp(min=torch.finfo(torch.float32).tiny)
    return (means / peaks).clamp(min=FLOOR).expm1().log().float()


def spectral_angles(spectra: Tensor, reconstruction: Tensor) -> Tensor:
    """Return the angles between spectra, rad; axis 1 is the band axis.

    Its gradient is finite at equality and for a spectrum of zeros.
    """
    product = (spectra * reconstruction).sum(dim=1)
    norms = spectra.norm(dim=1) * reconstruction.norm(dim=1)
    cosine = product / (norms + 1e-5)
    return torch.arccos(cosine.clamp(-1 + 1e-6, 1 - 1e-6))


def relative_sizes(term: Tensor, mixture: Tensor) -> Tensor:
    """Return the lengths of a term over those of its mixture; axis 1 is the band axis.

    Its gradient is finite for a term of zeros.
    """
    lengths = (term.square().sum(dim=1) + 1e-12).sqrt()
    ratio: Tensor = lengths / (mixture.norm(dim=1) + 1e-5)
    return ratio


def roughness(abundances: Tensor) -> Tensor:
    """Average the squared steps of ``(batch, endmember, row, col)`` between pixels."""
    squares = [abundances.diff(dim=dim).square().sum(dim=1) for dim in (-2, -1)]
    return (squares[0].mean() + squares[1].mean()) / 2


def label_loss(abundances: Tensor, classes: Tensor) -> Tensor:
    """Average the negative log abundance of the own class over labelled pixels."""
    # Zero has no logarithm.
    logarithms = abundances.clamp(min=1e-30).log()
    total = F.nll_loss(logarithms, classes, ignore_index=IGNORED, reduction="sum")
    return total / (classes != IGNORED).sum().clamp(min=1)


def divergence(variation: Variation) -> Tensor:
    """Average over bands the divergence from the standard normal distribution."""
    mean, log_variance = variation.mean, variation.log_variance
    terms = 1 + log_variance - mean.square() - log_variance.exp()
    return -0.5 * terms.sum(dim=1).mean()
