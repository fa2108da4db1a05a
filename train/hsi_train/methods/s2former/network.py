"""S2Former's network: adapter, spectral-spatial transformer blocks, and head."""

import math
from typing import Annotated

import msgspec
import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from hsi_train.method import Problem

PSEUDO_BANDS = 128
GROUPS = 16  # spectral tokens of a pixel
SPATIAL, SPECTRAL = 64, 32  # features of a spatial and of a spectral token
FEATURES = SPATIAL + GROUPS * SPECTRAL
HEADS = 4
BLOCKS = 3
REACH = 2  # pixels to the farthest neighbour attended to
SIDE = 2 * REACH + 1
Weight = Annotated[float, Meta(ge=0, le=1e3)]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ``[options]`` table of a recipe.

    Attributes:
        dropout: Share of the head's inputs dropped in training.
        class_weighting: 0 weights all training pixels equally, 1 all classes.
        encoder_rate: Learning rate of a pre-trained encoder, as a share of the head's,
            if training continues from a fitted head (``fit.epochs``, or DAFT). It does
            not by default: 40 steps lost 5 points on a disjoint split of SalinasA and
            2 on EnMAP Potsdam (ten draws, none of them reported).
        masked: Share of the pixels hidden in pre-training. With 0.3 instead of 0.7,
            and visible pixels reconstructed in full, the fitted head gained a point on
            EnMAP and nothing on SalinasA.
        spectral_weight: Weight of a pixel's prediction of its hidden neighbours' mean.
        visible_weight: Weight of the reconstruction of visible pixels; in use all
            pixels are visible.
        frequency_weight: Weight of the frequency domain consistency, FDC. With 0.1, 600
            steps changed no mean accuracy by more than 0.3 points (two scenes, ten
            draws).
        daft: Continue from the fitted head with diffusion-aligned fine-tuning. Off:
            compared with the fitted head alone it gains nothing; it loses less than
            plain training does (2.9 points on SalinasA, 1.0 on EnMAP, ten draws).
        teacher_momentum: Share of its weights that DAFT's teacher keeps in a step; 1
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
    """Return the weights of a sensor's bands in each pseudo-band, ``(128, band)``.

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
    """Return two linear layers with twice the width between them."""
    return nn.Sequential(
        nn.Linear(features, 2 * features), nn.GELU(), nn.Linear(2 * features, features)
    )


class Block(nn.Module):
    """Attend to the neighbours, exchange between the branches, feed forward."""

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
        """Attend to the neighbours, then exchange between the branches.

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
    """The pre-trained part: from pseudo-bands to spatial and spectral tokens."""

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
        # The spectral tokens of the outermost pixels are never used.
        e = self.embed_e(torch.unflatten(crop(spectra), -1, (GROUPS, -1))) + self.group
        first, *rest = self.blocks
        a, e = first(a, e)
        for block in rest:
            a, e = block(a, crop(e))
        return self.norm_a(a), self.norm_e(e)


class Head(nn.Module):
    """A linear classifier of standardised features.

    The spatial features are scaled up and the spectral ones down, so that both
    branches have the same variance: otherwise 512 spectral features would outweigh 64.
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
        # Constants, which the exporter folds, so that they cost no time per pixel.
        weight = self.linear.weight * self.gain
        return F.linear(features, weight, self.linear.bias - weight @ self.mean)


class Network(nn.Module):
    """From a cube to class scores, with twelve rows and columns fewer."""

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
