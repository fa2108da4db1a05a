"""S2Former: a spectral-spatial transformer, pre-trained without labels.

After the abstract of Chao, Lv, Ma, Qiu, Fang, Shen, Yao, "Cross-Domain Transfer with
Self-Supervised Spectral-Spatial Modeling for Hyperspectral Image Classification",
arXiv 2601.18088, 2026. The abstract gives the parts: pre-training on other scenes
without labels; a spatial and a spectral branch coupled by cross-attention both ways;
random masking; frequency domain consistency (FDC), a loss on the high frequencies of
the Fourier magnitude; diffusion-aligned fine-tuning (DAFT), distillation along the
path on which a diffusion model denoises a feature. Every size, formula and setting is
ours; this is not a reproduction of the paper's numbers.

With few labels a pre-trained encoder stays as it is. Pixels of the target without
labels tell how its features differ from neighbour to neighbour, and a linear head is
fitted that prefers what neighbours share. On disjoint splits of two small scenes that
gains 7 and 8 points on training from scratch, but 6 with an untrained encoder, too;
neither FDC nor DAFT adds to it: ``benchmarks/results/pretraining.md``.

Differs from the paper: a pixel has one state a layer, one spatial and sixteen spectral
tokens, and attends to its real neighbours, so a window is classified densely; whole
pixels are masked, in both branches.

Bands of any sensor become 128 pseudo-bands by a fixed resampling of the band index, so
one encoder serves all sensors.

One paper, one file, though long: the encoder, its pre-training, its fine-tuning. The
form that is exported is in `hsi_train.s2former_folded`.

Axes: tokens last, ``(batch, row, col, [group,] feature)``.
"""

import copy
import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import msgspec
import numpy as np
import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from hsi_runtime.errors import RecipeError
from hsi_train import patches, probe
from hsi_train.method import IGNORED, Batch, Defaults, Problem
from hsi_train.pretrain import Pretrainable

if TYPE_CHECKING:
    from hsi_train.patches import Windows

PSEUDO_BANDS = 128
GROUPS = 16  # spectral tokens of a pixel
SPATIAL, SPECTRAL = 64, 32  # features of a spatial and of a spectral token
FEATURES = SPATIAL + GROUPS * SPECTRAL
HEADS = 4
BLOCKS = 3
REACH = 2  # pixels to the farthest neighbour attended to
SIDE = 2 * REACH + 1
CLIP = 5.0  # standard deviations, in pre-training
FEW_LABELS = 1000  # up to here a pre-trained encoder gets its head from a probe
CUT = 128  # windows encoded at once for the probe
AROUND, AROUND_SIDE = 32, 32  # windows of pixels without labels, and their outputs
PROBED = Defaults(learning_rate=1e-3, min_steps=0)
DAFT = Defaults(learning_rate=1e-3, min_steps=200)
DIFFUSION_STEPS = 200
ANCHORS = (150, 100, 60, 20)  # times at which trajectories are compared
DENOISER_WARM_UP = 200  # steps

Weight = Annotated[float, Meta(ge=0, le=1e3)]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ``[options]`` table of a recipe.

    Attributes:
        dropout: Share of the head's inputs dropped in training.
        class_weighting: 0 weighs every training pixel alike, 1 every class.
        encoder_rate: Learning rate of a pre-trained encoder, as a share of the head's,
            where few labels train on from the fitted head (``fit.epochs``, or DAFT).
            That is not done by default: 40 steps lost 5 points on a disjoint split of
            SalinasA and 2 on EnMAP Potsdam (ten draws, none of them reported).
        masked: Share of the pixels hidden in pre-training. With 0.3 in place of 0.7,
            and visible pixels reconstructed in full, the fitted head gained a point on
            EnMAP and nothing on SalinasA.
        spectral_weight: Of a pixel's prediction of its hidden neighbours' mean.
        visible_weight: Of the reconstruction of pixels that are not hidden, all of
            which are visible when the network is used.
        frequency_weight: Of the frequency domain consistency, FDC. In 600 steps 0.1
            changed no mean accuracy by more than 0.3 points (two scenes, ten draws).
        daft: Whether few labels train on from the fitted head with diffusion-aligned
            fine-tuning. Off: it loses less than training on without (2.9 points on
            SalinasA, 1.0 on EnMAP, ten draws), and gains nothing on the head itself.
        teacher_momentum: Share of itself that DAFT's teacher keeps in a step; 1
            freezes it.
    """

    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.1
    class_weighting: Annotated[float, Meta(ge=0, le=1)] = 0.0
    encoder_rate: Annotated[float, Meta(gt=0, le=1)] = 0.1
    masked: Annotated[float, Meta(gt=0, lt=1)] = 0.3
    spectral_weight: Weight = 0.5
    visible_weight: Weight = 1.0
    frequency_weight: Weight = 0.1
    daft: bool = False
    teacher_momentum: Annotated[float, Meta(ge=0, le=1)] = 1.0


def resampling(bands: int) -> Tensor:
    """Weights of a sensor's bands in each pseudo-band, shape ``(128, band)``.

    Both lists of bands divide the same interval evenly; a weight is the share of the
    pseudo-band's interval that the band covers. Rows sum to one.
    """
    edges = torch.linspace(0, bands, PSEUDO_BANDS + 1, dtype=torch.float64)[:, None]
    band = torch.arange(bands, dtype=torch.float64)
    covered = torch.minimum(edges[1:], band + 1) - torch.maximum(edges[:-1], band)
    return covered.clamp(min=0) * PSEUDO_BANDS / bands


class Adapter(nn.Module):
    """Standardise and resample the bands of one sensor, in one 1x1 convolution.

    Args:
        mean: Band means in stored units, shape ``(band,)``.
        std: Band standard deviations in stored units, shape ``(band,)``, positive.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        weight = resampling(len(mean)) / std.double().cpu()
        self.register_buffer("weight", weight.float()[:, :, None, None])
        self.register_buffer("bias", -(weight @ mean.double().cpu()).float())

    def forward(self, cube: Tensor) -> Tensor:
        """Map ``(batch, band, row, col)`` in stored units to pseudo-bands, unitless."""
        return F.conv2d(cube, self.weight, self.bias)


def crop(tokens: Tensor, margin: int = REACH) -> Tensor:
    """Cut rows and columns, axes 1 and 2, on every side."""
    rows, cols = tokens.shape[1:3]
    return tokens[:, margin : rows - margin, margin : cols - margin]


def neighbours(tokens: Tensor) -> Tensor:
    """Collect the 5x5 neighbours of every pixel that has them all.

    Returns:
        ``(batch, row - 4, col - 4, neighbour, feature)``, the neighbours in order of
        row and column.
    """
    rows, cols = tokens.shape[1] - 2 * REACH, tokens.shape[2] - 2 * REACH
    # Rows first, then columns: ten slices in place of twenty-five.
    strips = torch.stack([tokens[:, i : i + rows] for i in range(SIDE)], dim=3)
    columns = [strips[:, :, j : j + cols] for j in range(SIDE)]
    return torch.stack(columns, dim=4).flatten(3, 4)


class NeighbourhoodAttention(nn.Module):
    """Four queries of a pixel to one key and one value of each of its 25 neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(SPATIAL, HEADS * SPECTRAL)
        self.key = nn.Linear(SPATIAL, SPECTRAL, bias=False)
        self.value = nn.Linear(SPATIAL, SPECTRAL)
        self.position = nn.Parameter(torch.zeros(HEADS, SIDE * SIDE))
        self.out = nn.Linear(HEADS * SPECTRAL, SPATIAL)

    def forward(self, a: Tensor) -> Tensor:
        """Map ``(batch, row, col, 64)`` to four rows and columns fewer."""
        query = self.query(crop(a)).unflatten(-1, (HEADS, SPECTRAL))
        keys = neighbours(self.key(a)).transpose(-1, -2)
        logits = query @ keys / math.sqrt(SPECTRAL)  # (batch, row, col, head, 25)
        shares = torch.softmax(logits + self.position, dim=-1)
        mixed = shares @ neighbours(self.value(a))  # (batch, row, col, head, 32)
        out: Tensor = self.out(mixed.flatten(-2))
        return out


class Exchange(nn.Module):
    """Spectral self-attention and cross-attention both ways, in one softmax.

    All queries of a pixel see the same 17 keys, its spectral tokens and its spatial
    one: attention to a single spatial key alone would be constant.
    """

    def __init__(self) -> None:
        super().__init__()
        self.query_a = nn.Linear(SPATIAL, HEADS * SPECTRAL)
        self.query_e = nn.Linear(SPECTRAL, SPECTRAL)
        self.key_a = nn.Linear(SPATIAL, SPECTRAL, bias=False)
        self.key_e = nn.Linear(SPECTRAL, SPECTRAL, bias=False)
        self.value_a = nn.Linear(SPATIAL, SPECTRAL)
        self.value_e = nn.Linear(SPECTRAL, SPECTRAL)
        self.out_a = nn.Linear(HEADS * SPECTRAL, SPATIAL)
        self.out_e = nn.Linear(SPECTRAL, SPECTRAL)

    def forward(self, a: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        """Map tokens ``(..., 64)`` and ``(..., 16, 32)`` to what is added to them."""
        from_a = self.query_a(a).unflatten(-1, (HEADS, SPECTRAL))
        queries = torch.cat([self.query_e(e), from_a], dim=-2)  # (..., 20, 32)
        keys = torch.cat([self.key_e(e), self.key_a(a).unsqueeze(-2)], dim=-2)
        values = torch.cat([self.value_e(e), self.value_a(a).unsqueeze(-2)], dim=-2)
        logits = queries @ keys.transpose(-1, -2) / math.sqrt(SPECTRAL)  # (..., 20, 17)
        mixed = torch.softmax(logits, dim=-1) @ values
        to_e, to_a = mixed[..., :GROUPS, :], mixed[..., GROUPS:, :]
        return self.out_a(to_a.flatten(-2)), self.out_e(to_e)


def feed_forward(features: int) -> nn.Sequential:
    """Two layers, twice as wide between."""
    return nn.Sequential(
        nn.Linear(features, 2 * features), nn.GELU(), nn.Linear(2 * features, features)
    )


class Block(nn.Module):
    """Look at the neighbours, exchange between the branches, feed forward."""

    def __init__(self) -> None:
        super().__init__()
        self.look_norm = nn.LayerNorm(SPATIAL)
        self.look = NeighbourhoodAttention()
        self.exchange_norm_a = nn.LayerNorm(SPATIAL)
        self.exchange_norm_e = nn.LayerNorm(SPECTRAL)
        self.exchange = Exchange()
        self.forward_norm_a = nn.LayerNorm(SPATIAL)
        self.forward_norm_e = nn.LayerNorm(SPECTRAL)
        self.forward_a = feed_forward(SPATIAL)
        self.forward_e = feed_forward(SPECTRAL)

    def forward(self, a: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        """Look at the neighbours and exchange.

        Args:
            a: Spatial tokens, shape ``(batch, row, col, 64)``.
            e: Spectral tokens, four rows and columns fewer, as both results are.
        """
        a = crop(a) + self.look(self.look_norm(a))
        to_a, to_e = self.exchange(self.exchange_norm_a(a), self.exchange_norm_e(e))
        a, e = a + to_a, e + to_e
        a = a + self.forward_a(self.forward_norm_a(a))
        e = e + self.forward_e(self.forward_norm_e(e))
        return a, e


class Encoder(nn.Module):
    """What pre-training trains: pseudo-bands to spatial and spectral tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_a = nn.Linear(PSEUDO_BANDS, SPATIAL)
        self.embed_e = nn.Linear(PSEUDO_BANDS // GROUPS, SPECTRAL)
        self.group = nn.Parameter(torch.randn(GROUPS, SPECTRAL) * 0.02)
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.norm_a = nn.LayerNorm(SPATIAL)
        self.norm_e = nn.LayerNorm(SPECTRAL)

    def forward(self, spectra: Tensor) -> tuple[Tensor, Tensor]:
        """Encode the pixels that have six neighbours on every side.

        Args:
            spectra: Pseudo-bands, shape ``(batch, 128, row, col)``.

        Returns:
            Spatial tokens ``(batch, row - 12, col - 12, 64)`` and spectral tokens
            ``(batch, row - 12, col - 12, 16, 32)``.
        """
        spectra = spectra.permute(0, 2, 3, 1)  # (batch, row, col, 128)
        a = self.embed_a(spectra)
        # The spectral tokens of the outermost pixels would meet nobody.
        e = self.embed_e(torch.unflatten(crop(spectra), -1, (GROUPS, -1))) + self.group
        first, *rest = self.blocks
        a, e = first(a, e)
        for block in rest:
            a, e = block(a, crop(e))
        return self.norm_a(a), self.norm_e(e)


class Head(nn.Module):
    """A linear classifier of standardised features.

    The spatial features are scaled up and the spectral ones down, so that both
    branches have the same variance: else 512 spectral ones would drown 64 spatial.
    """

    mean: Tensor
    gain: Tensor

    def __init__(self, classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(FEATURES, classes)
        self.register_buffer("mean", torch.zeros(FEATURES))
        self.register_buffer("gain", self.balance())

    @staticmethod
    def balance() -> Tensor:
        """Give each branch half of the features' variance, shape ``(feature,)``."""
        half = FEATURES / 2
        spatial = torch.full((SPATIAL,), math.sqrt(half / SPATIAL))
        spectral = torch.full((GROUPS * SPECTRAL,), math.sqrt(half / GROUPS / SPECTRAL))
        return torch.cat([spatial, spectral])

    def standardise(self, features: Tensor) -> Tensor:
        """Centre and scale ``(..., feature)``."""
        return (features - self.mean) * self.gain

    def measure(self, features: Tensor) -> None:
        """Take mean and deviation from features ``(pixel, feature)``."""
        self.mean.copy_(features.mean(dim=0))
        self.gain.copy_(1 / features.std(dim=0, correction=0).clamp(min=1e-6))

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(..., feature)`` to class scores ``(..., class)``."""
        if self.training:
            scores: Tensor = self.linear(self.dropout(self.standardise(features)))
            return scores
        # Constants, which the exporter folds: no work for each pixel.
        weight = self.linear.weight * self.gain
        return F.linear(features, weight, self.linear.bias - weight @ self.mean)


class Network(nn.Module):
    """The inference graph: a cube to class scores, twelve rows and columns fewer."""

    def __init__(self, problem: Problem, options: Options) -> None:
        super().__init__()
        self.adapter = Adapter(problem.band_mean, problem.band_std)
        self.encoder = Encoder()
        self.head = Head(len(problem.class_counts), options.dropout)

    def features(self, cube: Tensor) -> Tensor:
        """Map a cube in stored units to features, tokens last."""
        a, e = self.encoder(self.adapter(cube))
        return torch.cat([a, e.flatten(-2)], dim=-1)

    def forward(self, cube: Tensor) -> Tensor:
        """Map a cube in stored units to class scores."""
        scores: Tensor = self.head(self.features(cube))  # (batch, row, col, class)
        return scores.permute(0, 3, 1, 2)


class Pretraining(nn.Module):
    """Hides pixels and predicts their spectra; nothing of it is exported.

    A spectrum is predicted as the adapter gives it, with its brightness. Predicting the
    shape alone, centred and scaled, the fitted head lost 7 to 8 points on EnMAP and
    gained 1 to 4 on SalinasA (ten draws, none of them reported).
    """

    def __init__(self, options: Options) -> None:
        super().__init__()
        self._options = options
        width = PSEUDO_BANDS // GROUPS
        self.mask_vector = nn.Parameter(torch.randn(PSEUDO_BANDS) * 0.02)
        self.decoder_a = nn.Linear(SPATIAL, PSEUDO_BANDS)
        self.decoder_e = nn.Linear(SPECTRAL, width)
        self.spectral_head = (
            nn.Linear(SPECTRAL, width) if options.spectral_weight else None
        )

    def encode(
        self, encoder: nn.Module, spectra: Tensor, masked: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Encode with some pixels hidden, ``masked`` of shape ``(batch, row, col)``.

        They are replaced before both embeddings, so that nothing of a hidden spectrum
        reaches any token.
        """
        hidden = torch.where(masked[:, None], self.mask_vector[:, None, None], spectra)
        tokens: tuple[Tensor, Tensor] = encoder(hidden)
        return tokens

    def forward(self, encoder: nn.Module, spectra: Tensor) -> Tensor:
        """Return the loss of windows ``(batch, 128, row, col)``, masks drawn anew."""
        options = self._options
        spectra = spectra.clamp(-CLIP, CLIP)
        batch, _, rows, cols = spectra.shape
        draw = torch.rand(batch, rows, cols)  # on the CPU: alike on every device
        masked = (draw < options.masked).to(spectra.device)
        a, e = (t.float() for t in self.encode(encoder, spectra, masked))
        halo = BLOCKS * REACH
        target = spectra.permute(0, 2, 3, 1)  # (batch, row, col, 128)
        inner, true = crop(masked, halo), crop(target, halo)

        found = self.decoder_a(a) + self.decoder_e(e).flatten(-2)
        error = (found - true).square().mean(dim=-1)  # (batch, row, col)
        loss = mean_where(error, inner) + options.visible_weight * mean_where(
            error, ~inner
        )
        if self.spectral_head is not None:
            near, known = hidden_neighbours(target, masked, halo)
            error = (self.spectral_head(e).flatten(-2) - near).square().mean(dim=-1)
            loss = loss + options.spectral_weight * mean_where(error, known & ~inner)
        if options.frequency_weight:
            composite = torch.where(inner[..., None], found, true)
            loss = loss + options.frequency_weight * frequency_loss(composite, true)
        return loss


def mean_where(values: Tensor, where: Tensor) -> Tensor:
    """Average over the pixels chosen; zero if none is."""
    return (values * where).sum() / where.sum().clamp(min=1)


def hidden_neighbours(
    target: Tensor, masked: Tensor, halo: int
) -> tuple[Tensor, Tensor]:
    """Average the hidden pixels in the 5x5 round every pixel inside the halo.

    Args:
        target: Shape ``(batch, row, col, 128)``.
        masked: Shape ``(batch, row, col)``.
        halo: Pixels left out on each side.

    Returns:
        The mean spectrum, and whether there was a hidden pixel at all.
    """
    shares = masked[..., None].to(target.dtype)
    both = torch.cat([target * shares, shares], dim=-1).permute(0, 3, 1, 2)
    sums = F.avg_pool2d(both, SIDE, stride=1).permute(0, 2, 3, 1)
    sums = crop(sums, halo - REACH)
    share = sums[..., -1]
    return sums[..., :-1] / share.clamp(min=0.5 / SIDE**2)[..., None], share > 0


def frequency_loss(found: Tensor, true: Tensor) -> Tensor:
    """FDC: compare high-frequency magnitudes in space, and along the bands.

    Args:
        found: Shape ``(batch, row, col, band)``.
        true: Likewise.

    Returns:
        The sum of both means; zero for equal cubes.
    """
    _, rows, cols, bands = found.shape
    both = (found, true)
    like: dict[str, Any] = {"device": found.device, "dtype": found.dtype}
    frequency = torch.hypot(
        torch.fft.fftfreq(rows, **like)[:, None], torch.fft.rfftfreq(cols, **like)
    )  # (row, col), cycles per pixel
    weight = (frequency >= 0.25) * twice(cols).to(found)
    moved = [magnitude(torch.fft.rfft2(x, (rows, cols), (1, 2), "ortho")) for x in both]
    gap = (moved[0] - moved[1]).abs() * weight[..., None]
    in_space = gap.sum(dim=(1, 2)) / weight.sum().clamp(min=1)  # (batch, band)

    weight = (torch.fft.rfftfreq(bands, **like) >= 0.125) * twice(bands).to(found)
    moved = [magnitude(torch.fft.rfft(x, norm="ortho")) for x in both]
    along_bands = (moved[0] - moved[1]).abs() @ weight / weight.sum()
    loss: Tensor = in_space.mean() + along_bands.mean()
    return loss


def twice(size: int) -> Tensor:
    """Count how often each frequency of a real transform stands in the full one."""
    counts = torch.full((size // 2 + 1,), 2.0)
    counts[0] = 1
    if size % 2 == 0:
        counts[-1] = 1
    return counts


def magnitude(values: Tensor) -> Tensor:
    """Absolute value of complex numbers, with a finite gradient at zero."""
    return (values.real.square() + values.imag.square() + 1e-12).sqrt()


class Denoiser(nn.Module):
    """Predicts a feature vector from a noisy one and the time of the diffusion."""

    def __init__(self, hidden: int = 384) -> None:
        super().__init__()
        self.time = nn.Embedding(DIFFUSION_STEPS, FEATURES)
        self.norm = nn.LayerNorm(FEATURES)
        self.mlp = nn.Sequential(
            *(nn.Linear(FEATURES, hidden), nn.SiLU(), nn.Linear(hidden, hidden)),
            *(nn.SiLU(), nn.Linear(hidden, FEATURES)),
        )

    def forward(self, noisy: Tensor, time: Tensor) -> Tensor:
        """Map ``(pixel, feature)`` and times ``(pixel,)`` to denoised features."""
        out: Tensor = noisy + self.mlp(self.norm(noisy + self.time(time)))
        return out


class Distillation(nn.Module):
    """DAFT: student and teacher shall denoise along the same path.

    A feature is noised to several levels and denoised; the path of the results as the
    noise falls is the sample's trajectory. Nothing of it is exported.
    """

    signal: Tensor

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.teacher = copy.deepcopy(network).requires_grad_(False)
        self.denoiser = Denoiser()
        beta = torch.linspace(1e-4, 2e-2, DIFFUSION_STEPS, dtype=torch.float64)
        # Share of the signal's power left at each time.
        signal = torch.cumprod(1 - beta, 0).float()
        self.register_buffer("signal", signal, persistent=False)

    def noised(self, z: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """Mix features and noise as they are at a time ``(pixel,)``."""
        signal = self.signal[time][:, None]
        return signal.sqrt() * z + (1 - signal).sqrt() * noise

    def denoising_loss(self, teacher: Tensor) -> Tensor:
        """Teach the denoiser the teacher's features ``(pixel, feature)``."""
        teacher = teacher.detach()
        time = torch.randint(DIFFUSION_STEPS, teacher.shape[:1], device=teacher.device)
        noisy = self.noised(teacher, torch.randn_like(teacher), time)
        loss: Tensor = (self.denoiser(noisy, time) - teacher).square().mean()
        return loss

    def trajectory_losses(
        self, student: Tensor, teacher: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Compare the paths, and their steps; the denoiser itself gets no gradient."""
        fixed = {k: p.detach() for k, p in self.denoiser.named_parameters()}
        noise = torch.randn_like(teacher)

        def path(z: Tensor) -> list[Tensor]:
            times = [torch.full(z.shape[:1], t, device=z.device) for t in ANCHORS]
            return [
                torch.func.functional_call(
                    self.denoiser, fixed, (self.noised(z, noise, time), time)
                )
                for time in times
            ]

        ours, theirs = path(student), [h.detach() for h in path(teacher)]
        along = torch.stack(
            [1 - F.cosine_similarity(s, t) for s, t in zip(ours, theirs, strict=True)]
        )
        steps = torch.stack(
            [
                ((s2 - s1) - (t2 - t1)).square().mean()
                for (s1, s2), (t1, t2) in zip(
                    pairwise(ours), pairwise(theirs), strict=True
                )
            ]
        )
        return along.mean(), steps.mean()

    @torch.no_grad()
    def follow(self, network: nn.Module, momentum: float) -> None:
        """Move the teacher's weights towards the student's."""
        pairs = zip(self.teacher.parameters(), network.parameters(), strict=True)
        for ours, theirs in pairs:
            ours.lerp_(theirs, 1 - momentum)


class Surroundings(NamedTuple):
    """What pixels without labels tell of the features.

    Attributes:
        features: Shape ``(pixel, feature)``.
        steps: Covariance of the differences of neighbours, ``(feature, feature)``.
    """

    features: Tensor
    steps: Tensor


def neighbours_known(known: Tensor, axis: int) -> Tensor:
    """Say where a pixel and the next along an axis are both known."""
    length = known.shape[axis] - 1
    return known.narrow(axis, 0, length) & known.narrow(axis, 1, length)


class Method(Pretrainable):
    """S2Former; from scratch, or on a pre-trained encoder."""

    receptive_field = 2 * BLOCKS * REACH + 1
    defaults = Defaults(learning_rate=1e-3, min_steps=100)
    network: Network

    def __init__(self, problem: Problem, options: Options) -> None:
        super().__init__(problem, options.class_weighting)
        self._options = options
        self.network = Network(problem, options)
        self.pretraining = Pretraining(options)
        self.daft = Distillation(self.network) if options.daft else None

    def folded_graph(self) -> nn.Module:
        from hsi_train.s2former_folded import FoldedGraph  # which imports this file

        return FoldedGraph(self.network, self.probabilities)

    @property
    def encoder(self) -> nn.Module:
        """What pre-training trains and other runs may start from."""
        return self.network.encoder

    @staticmethod
    def adapter(mean: Tensor, std: Tensor) -> nn.Module:
        return Adapter(mean, std)

    def pretraining_loss(self, cube: Tensor) -> Tensor:
        loss: Tensor = self.pretraining(self.encoder, cube)
        return loss

    @property
    def probes(self) -> bool:
        """Whether the encoder knows more than the labels: its head is fitted first."""
        few = int(self.problem.class_counts.sum()) <= FEW_LABELS
        return self.pretrained and few

    def fit_defaults(self) -> Defaults:
        if self.probes:
            return PROBED if self.daft is None else DAFT
        if self.daft is None:
            return self.defaults
        raise RecipeError(
            "options.daft tunes a pre-trained encoder with at most "
            f"{FEW_LABELS} training pixels; give --pretrain-scene or --init and few "
            "labels, or leave it out."
        )

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        slow = self._options.encoder_rate if self.probes else 1.0
        fast = list(self.network.head.parameters())
        if self.daft is not None:
            fast += self.daft.denoiser.parameters()
        return [
            {"params": list(self.encoder.parameters()), "lr": slow * learning_rate},
            {"params": fast, "lr": learning_rate},
        ]

    def prepare(self, windows: "Windows") -> None:
        """Measure the features and fit the head before a pre-trained encoder moves."""
        if not self.probes:
            return
        places, head = windows.training_pixels(), self.network.head
        around = self._unlabelled(windows)
        features, classes = self._features(windows)
        head.measure(features if around is None else around.features)
        quiet = torch.eye(FEATURES).to(features)
        if around is not None:
            steps = around.steps * head.gain * head.gain[:, None]
            quiet = probe.quietening(steps).to(features)
        fitted = probe.fit(head.standardise(features) @ quiet, classes, places)
        with torch.no_grad():
            head.linear.weight.copy_(fitted.weight @ quiet)
            head.linear.bias.copy_(fitted.bias)
        if self.daft:
            self.daft.teacher.load_state_dict(self.network.state_dict())
            self._warm_up(self.daft, unit(head.standardise(features)))

    @torch.no_grad()
    def _unlabelled(self, windows: "Windows") -> Surroundings | None:
        """Measure the target scenes without labels, as pre-training does its scenes.

        The adapter's statistics become those of the pixels. Nothing is measured where
        too few pixels are untouched by test and validation pixels.
        """
        rng = np.random.default_rng(int(torch.randint(2**31, ())))
        found = list(windows.unlabelled(AROUND_SIDE, AROUND, rng))
        inside = slice(self.halo, -self.halo)
        inner = [cube[:, inside, inside][:, known] for cube, known in found]
        if sum(spectra.shape[1] for spectra in inner) < FEATURES:
            return None
        spectra = np.concatenate(inner, axis=1).astype(np.float64)
        measured = patches.describe(spectra)
        mean, std = (torch.from_numpy(v) for v in (measured.mean, measured.std))
        network, device = self.network.eval(), self.class_weights.device
        network.adapter.load_state_dict(Adapter(mean, std).state_dict())
        steps = torch.zeros(FEATURES, FEATURES, dtype=torch.float64, device=device)
        features, count = [], 0
        for cube, known in found:
            grid = network.features(torch.from_numpy(cube)[None].to(device))[0]
            mask = torch.from_numpy(known).to(device)
            features.append(grid[mask])
            for axis in (0, 1):
                change = grid.diff(dim=axis)[neighbours_known(mask, axis)].double()
                steps += change.T @ change
                count += len(change)
        return Surroundings(torch.cat(features), steps / max(count, 1))

    @torch.no_grad()
    def _features(self, windows: "Windows") -> tuple[Tensor, Tensor]:
        """Features ``(pixel, feature)`` and classes of all training pixels."""
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
        features = network.features(batch.cube)  # (batch, row, col, feature)
        scores = network.head(features)
        loss = self.cross_entropy(scores.permute(0, 3, 1, 2), batch.classes)
        if not labelled.any():
            return loss
        with torch.no_grad():
            seen = another_view(daft.teacher.eval().features, batch.cube)
            said = daft.teacher.head(seen)[labelled]
            theirs = unit(daft.teacher.head.standardise(seen)[labelled])
        ours = unit(network.head.standardise(features)[labelled])  # (pixel, feature)
        path, steps = daft.trajectory_losses(ours, theirs)
        soft = F.kl_div(
            F.log_softmax(scores[labelled] / 2, dim=-1),
            F.log_softmax(said / 2, dim=-1),
            log_target=True,
            reduction="batchmean",
        )
        # Late enough for the student to have a trajectory worth comparing.
        ramp = math.exp(-5 * (1 - min(1.0, self.progress / 0.3)) ** 2)
        agreement = 0.5 * path + 0.5 * steps + 0.5 * 4 * soft
        return loss + ramp * agreement + daft.denoising_loss(theirs)


def unit(features: Tensor) -> Tensor:
    """Centre and scale every feature vector."""
    return F.layer_norm(features, features.shape[-1:])


def another_view(features: Callable[[Tensor], Tensor], cube: Tensor) -> Tensor:
    """Compute features of windows turned and flipped at random, and turn them back."""
    draw = int(torch.randint(0, 8, ()))
    turned = torch.rot90(cube.flip(-1) if draw >= 4 else cube, draw % 4, (-2, -1))
    seen = torch.rot90(features(turned), -(draw % 4), (1, 2))
    return seen.flip(2) if draw >= 4 else seen
