"""The spatial network of S2VNet: a convolution stem and retention."""

import math
from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hsi_train.layers import crop_to, norm_affine

CHANNELS, HEADS = 32, 4
REACH = 3  # pixels to each side that retention attends to


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
