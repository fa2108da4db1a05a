"""Deals the windows of a batch to the processes; all get the results of all."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from hsi_train.processes import group
from hsi_train.processes.launch import rank

Result = TypeVar("Result", Tensor, tuple[Tensor, ...])


class Share(NamedTuple):
    """What a process has of a batch.

    Attributes:
        windows: Windows of the whole batch.
        own: Those of this process.
    """

    windows: int
    own: slice


_share: ContextVar[Share | None] = ContextVar("share", default=None)


def present_share() -> Share | None:
    """Return what this process computes now of a batch; None where it is all."""
    return _share.get()


def deal(function: Callable[..., Result], *tensors: Tensor) -> Result:
    """Apply a function to a batch, each process to some of its windows.

    The result, and all gradients once `average` has met them, are those of one process
    that does it all, up to rounding. What a function draws at random, it must draw in
    `hsi_train.processes.layers`.

    Args:
        function: Maps tensors to a tensor or several. The first axis of each is the
            window; nothing but the norms of a network relates one to another.
        *tensors: All windows.
    """
    if group.count() == 1:
        return function(*tensors)
    share = _share_of(len(tensors[0]))
    with _computing(share):
        result = function(*(tensor[share.own] for tensor in tensors))
    if isinstance(result, Tensor):
        return _gathered(result, share)
    return tuple(_gathered(part, share) for part in result)


def _share_of(windows: int) -> Share:
    """Deal windows one after another, as many to each process as can be."""
    first, stop = (windows * k // group.count() for k in (rank(), rank() + 1))
    return Share(windows, slice(first, stop))


@contextmanager
def _computing(share: Share) -> Iterator[None]:
    token = _share.set(share)
    try:
        yield
    finally:
        _share.reset(token)


def _gathered(own: Tensor, share: Share) -> Tensor:
    gathered: Tensor = _Gather.apply(own, share)  # type: ignore[no-untyped-call]
    return gathered


class _Gather(torch.autograd.Function):
    """Results of all windows, from those of each process.

    Every process computes the same loss of them. Gradients are such that their mean
    over the processes is that of the loss: the same in each where all compute the same,
    and of the own windows times the number of processes where these are dealt out.
    """

    @staticmethod
    def forward(ctx: Any, own: Tensor, share: Share) -> Tensor:
        ctx.own = share.own
        # Zeros elsewhere: sums of one number and zeros are exact.
        shape = share.windows, *own.shape[1:]
        whole = own.new_zeros(shape, dtype=group.summed(own))
        whole[share.own] = own
        group.add_up(whole)
        return whole.to(own.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.to(group.summed(gradient)).contiguous().clone()
        group.add_up(total)
        return total[ctx.own].to(gradient.dtype), None


class Sum(torch.autograd.Function):
    """Sum over the processes, through which gradients flow to all of them."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        total = own.clone()
        group.add_up(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        group.add_up(total)
        return total


def average(parameters: Sequence[nn.Parameter]) -> None:
    """Give the parameters the mean of the gradients of all processes.

    Parameters without a gradient have none in any process.

    Raises:
        ClusterError: A process has ended.
    """
    if group.count() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return
    together = torch.cat([gradient.flatten() for gradient in gradients])
    group.add_up(together)
    together /= group.count()
    parts = torch.split(together, [gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
