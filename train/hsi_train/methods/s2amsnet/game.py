"""The terms of the game of classifier and generators: training only."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hsi_train.method import IGNORED

TEMPERATURE = 0.07


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Build a graph through a network that leaves its parameters and buffers alone.

    Batch statistics are those of the cubes at hand. The max step shows the copies, and
    the min step the source, too: the two functions differ in their statistics.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    network.requires_grad_(False)
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        network.requires_grad_(True)
        for norm in norms:
            norm.track_running_stats = True


def inconsistency(scores: tuple[Tensor, ...], classes: Tensor) -> Tensor:
    """Measure how much scores of mixed copies differ from those of altered ones.

    KL(mixed 2 || altered 1) + KL(mixed 1 || altered 2), a mean over the outputs that
    have a class.

    Args:
        scores: Class scores of altered 1, altered 2, mixed 1 and mixed 2, each
            ``(batch, class, row, col)``.
        classes: Class index or `IGNORED`, shape ``(batch, row, col)``.
    """
    altered1, altered2, mixed1, mixed2 = (torch.log_softmax(s, dim=1) for s in scores)
    apart = F.kl_div(altered1, mixed2, reduction="none", log_target=True)
    apart = apart + F.kl_div(altered2, mixed1, reduction="none", log_target=True)
    known = classes != IGNORED
    total: Tensor = (apart.sum(dim=1) * known).sum()
    return total / known.sum().clamp(min=1)


def contrast(a: Tensor, b: Tensor) -> Tensor:
    """Bound the mutual information of two views by contrasting rows (InfoNCE).

    Args:
        a: Features of one view, shape ``(batch, feature)``.
        b: Features of the other, in the same order.
    """
    with torch.autocast(a.device.type, enabled=False):  # sharp logits need fp32
        rows = F.normalize(torch.cat([a, b]).float(), dim=1)
        logits = rows @ rows.T / TEMPERATURE
        logits = logits.masked_fill(
            torch.eye(len(rows), dtype=torch.bool, device=a.device), -math.inf
        )
        partner = torch.arange(len(rows), device=a.device).roll(len(a))
        return F.cross_entropy(logits, partner)


def squares(x: Tensor, side: int) -> Tensor:
    """Cut windows into the patches that fit without overlap, as further samples.

    With a few dense windows in a step, MI would have hardly any negatives; a patch is
    a window with one output.

    Args:
        x: Shape ``(batch, band, row, col)``.
        side: Side of a patch, px.
    """
    cut = x.unfold(2, side, side).unfold(3, side, side)
    return cut.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)  # (batch * patch, band, ...)
