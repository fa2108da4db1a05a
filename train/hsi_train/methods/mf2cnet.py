"""MF2CNet: granular multiscale spatial-spectral features.

After the abstract of Ye, Li, Liu, Bai, Fowler, "Multiscale Spatial-Spectral Feature
Extraction Network for Hyperspectral Image Classification", IEEE JSTARS 15:4640-4652,
2022, doi 10.1109/JSTARS.2022.3179446. The abstract gives the parts: feature maps split
into groups, a hierarchy of connections across the groups, pointwise convolutions that
fuse channels, depthwise 3-D convolutions. Depth, widths, first layer, head and training
are ours; this is not a reproduction of the paper's numbers.

Differs from the paper: every spatial operator is valid (no zero padding in rows and
columns), so a window is classified densely and each pixel sees its real neighbours. The
bands keep zero padding; zeros stand for the band mean there, because the cube is
standardised first.

Axes: ``(batch, feature, depth, row, col)``; depth is the band axis after the stem.
"""

import copy
from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec
import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from hsi_train.layers import Standardise, crop_to, norm_affine
from hsi_train.method import BaseMethod, Defaults, Problem

GROUPS = 4
BLOCKS = 2  # of six rows and columns each
LARGEST_STRIDE, FEWEST_STEPS = 8, 15  # of the first convolution along the bands
STEM_REACH = 3  # bands that the first convolution sees on each side, or more


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ``[options]`` table of a recipe.

    Attributes:
        spectral_stride: Step of the first convolution along the bands; ``auto``: 8, or
            less where fewer than 15 steps would be left.
        features: Channels of the granular blocks, a multiple of four.
        hidden: Channels of the head's hidden layer.
        dropout: Share of the hidden channels dropped in training.
        class_weighting: 0 weights all training pixels equally, 1 all classes; 0.25
            helps rare classes without a loss for common ones (EnMAP Potsdam).
    """

    spectral_stride: Annotated[int, Meta(ge=1, le=16)] | Literal["auto"] = "auto"
    features: Annotated[int, Meta(ge=4, le=256, multiple_of=GROUPS)] = 24
    hidden: Annotated[int, Meta(ge=1, le=1024)] = 128
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.3
    class_weighting: Annotated[float, Meta(ge=0, le=1)] = 0.25


class DepthwiseConv3d(nn.Module):
    """Filter each channel by its own 3x3x3 kernel: valid in space, padded in depth."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        like = nn.Conv3d(channels, channels, 3, groups=channels, bias=False)
        self.weight = like.weight  # (channel, 1, depth, row, col), torch's default

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(batch, channel, depth, row, col)`` to rows and columns less two."""
        if self.training:
            return self.three_taps(features)
        return F.conv3d(
            features, self.weight, padding=(1, 0, 0), groups=self.weight.shape[0]
        )

    def three_taps(self, features: Tensor) -> Tensor:
        """Compute the same with three 2-D convolutions, one per depth tap.

        Exactly equal up to rounding. On a CPU its backward pass takes about half the
        time of the 3-D one on training patches, and that pass dominates training.
        """
        batch, channels, depth, rows, cols = features.shape
        padded = F.pad(features, (0, 0, 0, 0, 1, 1))
        taps = []
        for tap in range(3):
            planes = padded[:, :, tap : tap + depth].reshape(
                batch, channels * depth, rows, cols
            )
            kernel = self.weight[:, :, tap].repeat_interleave(depth, dim=0)
            taps.append(F.conv2d(planes, kernel, groups=channels * depth))
        out = taps[0] + taps[1] + taps[2]
        return out.view(batch, channels, depth, rows - 2, cols - 2)


class GranularBlock(nn.Module):
    """Receptive fields of 1, 3, 5 and 7 pixels side by side, fused, with a skip.

    Attributes:
        products: Number of groups that each matrix product computes in inference.
            Engines copy groups out of a large product; several small ones take longer.
    """

    products: tuple[int, ...] = (1,) * GROUPS

    def __init__(self, features: int) -> None:
        super().__init__()
        width = features // GROUPS
        self.mix = nn.Sequential(
            nn.Conv3d(features, features, 1, bias=False),
            nn.BatchNorm3d(features),
            nn.ReLU(),
        )
        self.filters = nn.ModuleList(
            nn.Sequential(DepthwiseConv3d(width), nn.BatchNorm3d(width), nn.ReLU())
            for _ in range(GROUPS - 1)
        )
        self.fuse = nn.Sequential(
            nn.Conv3d(features, features, 1, bias=False), nn.BatchNorm3d(features)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, feature, depth, row, col)`` to rows and columns less six."""
        cut = 2 * len(self.filters)
        inner = crop_to(x, x.shape[-2] - cut, x.shape[-1] - cut)
        first, *rest = self.mixed_groups(x, inner)
        outputs = [first]
        previous: Tensor | None = None
        for group, layer in zip(rest, self.filters, strict=True):
            if previous is not None:
                group = crop_to(group, *previous.shape[-2:]) + previous
            previous = layer(group)
            outputs.append(previous)
        rows, cols = inner.shape[-2:]
        multiscale = torch.cat([crop_to(y, rows, cols) for y in outputs], dim=1)
        return F.relu(self.fuse(multiscale) + inner)

    def mixed_groups(self, x: Tensor, inner: Tensor) -> Iterator[Tensor]:
        """Mix and split the channels; the first group has the inner pixels only."""
        width = x.shape[1] // GROUPS
        if self.mix[1].training:  # the trainer may set the norms alone to training
            first, *rest = self.mix(x).split(width, dim=1)
            yield crop_to(first, *inner.shape[-2:])
            yield from rest
            return
        layer = self.mix[0]
        assert isinstance(layer, nn.Conv3d)
        gain, bias = norm_affine(self.mix[1])
        weight = layer.weight * gain[:, None, None, None, None]
        source, start = inner, 0
        for groups in self.products:
            own = slice(start, start + groups * width)
            mixed = F.relu(F.conv3d(source, weight[own], bias[own]))
            for first in range(0, groups * width, width):
                yield mixed[:, first : first + width]
            source, start = x, own.stop


class Head(nn.Sequential):
    """Class scores from all features and depths of a pixel."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, feature, depth, row, col)`` to scores.

        In inference one kernel spans all depths: engines that keep the features of a
        pixel together, in half precision, would transpose for a flat product.
        """
        first, norm, *rest = self
        assert isinstance(first, nn.Conv2d)
        if norm.training:  # as in `GranularBlock.mixed_groups`
            x = norm(first(x.flatten(1, 2)))  # depth joins the features
        else:
            gain, bias = norm_affine(norm)
            weight = first.weight * gain[:, None, None, None]
            x = F.conv3d(x, weight.view(-1, *x.shape[1:3], 1, 1), bias).squeeze(2)
        for layer in rest:
            x = layer(x)  # (batch, hidden or class, row, col)
        return x


def stride_for(bands: int) -> int:
    """Return the step of the first convolution along the bands, where none is given."""
    return max(1, min(LARGEST_STRIDE, bands // FEWEST_STEPS))


class Network(nn.Module):
    """From a cube to class scores, with six rows and columns fewer for each block."""

    def __init__(self, problem: Problem, options: Options) -> None:
        super().__init__()
        bands, classes = len(problem.band_mean), len(problem.class_counts)
        features = options.features
        given = options.spectral_stride
        stride = stride_for(bands) if given == "auto" else given
        self.depth = depth = (bands - 1) // stride + 1
        self.standardise = Standardise(problem.band_mean, problem.band_std)
        reach = max(STEM_REACH, stride // 2)  # so that no band is lost
        self.stem = nn.Sequential(
            nn.Conv3d(
                1,
                features,
                (2 * reach + 1, 1, 1),
                stride=(stride, 1, 1),
                padding=(reach, 0, 0),
                bias=False,
            ),
            nn.BatchNorm3d(features),
            nn.ReLU(),
        )
        self.blocks = nn.Sequential(*(GranularBlock(features) for _ in range(BLOCKS)))
        self.head: nn.Sequential = Head(
            nn.Conv2d(features * depth, options.hidden, 1, bias=False),
            nn.BatchNorm2d(options.hidden),
            nn.ReLU(),
            nn.Dropout(options.dropout),
            nn.Conv2d(options.hidden, classes, 1),
        )

    def forward(self, cube: Tensor) -> Tensor:
        """Map a cube in stored units to class scores."""
        x = self.standardise(cube)[:, None]  # (batch, 1, band, row, col)
        scores: Tensor = self.head(self.blocks(self.stem(x)))
        return scores


class FoldedDepthwise(nn.Module):
    """A depthwise 3-D filter with its norm and rectifier, for inference.

    Each channel of each depth is a plane: three 2-D filters of shifted planes take
    half the time of the 3-D filter, which engines unfold in memory.
    """

    before: Tensor
    own: Tensor
    after: Tensor
    bias: Tensor

    def __init__(self, filtered: nn.Module, depth: int) -> None:
        super().__init__()
        assert isinstance(filtered, nn.Sequential)
        layer = filtered[0]
        assert isinstance(layer, DepthwiseConv3d)
        gain, bias = norm_affine(filtered[1])
        kernels = (layer.weight * gain[:, None, None, None, None]).unbind(dim=2)
        planes = [k.repeat_interleave(depth, dim=0).detach() for k in kernels]
        for name, kernel in zip(("before", "own", "after"), planes, strict=True):
            self.register_buffer(name, kernel)  # (channel * depth, 1, row, col)
        self.register_buffer("bias", bias.repeat_interleave(depth).detach())

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(batch, channel, depth, row, col)`` to rows and columns less two."""
        batch, channels, depth, rows, cols = features.shape
        padded = F.pad(features, (0, 0, 0, 0, 1, 1))
        shifted = padded[:, :, :depth], features, padded[:, :, 2:]
        kernels = self.before, self.own, self.after
        biases = None, self.bias, None
        before, own, after = (
            F.conv2d(planes.flatten(1, 2), kernel, bias, groups=channels * depth)
            for planes, kernel, bias in zip(shifted, kernels, biases, strict=True)
        )
        out = F.relu(before + own + after)
        return out.view(batch, channels, depth, rows - 2, cols - 2)


def folded(network: Network) -> Network:
    """Copy a network for the exporter: filters and head in 2-D."""
    twin = copy.deepcopy(network)
    for block in twin.blocks:
        assert isinstance(block, GranularBlock)
        block.products = (1, GROUPS - 1)
        block.filters = nn.ModuleList(
            FoldedDepthwise(layer, network.depth) for layer in block.filters
        )
    twin.head = nn.Sequential(nn.Flatten(1, 2), *twin.head)
    return twin


class Method(BaseMethod):
    """MF2CNet with a plain cross-entropy; all of it is exported."""

    receptive_field = 1 + 2 * (GROUPS - 1) * BLOCKS
    defaults = Defaults(batch=16)

    def __init__(self, problem: Problem, options: Options) -> None:
        super().__init__(problem, options.class_weighting)
        self.network: Network = Network(problem, options)

    @property
    def last_layer(self) -> nn.Module:
        return self.network.head[-1]

    def folded_network(self) -> nn.Module:
        return folded(self.network)
