"""The processes of a training, and what the first of them decides for all."""

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from hsi_runtime.errors import ClusterError, EngineError, HsiError
from hsi_train.processes.launch import local_rank, rank, started

# One process may read from a slow disk while the others wait.
PATIENCE = timedelta(hours=1)
_trainings = itertools.count()


def count() -> int:
    """Return how many processes train together now."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def together(device: torch.device) -> Iterator[torch.device]:
    """Let the processes that torchrun started train together.

    Args:
        device: Kind of device; of several GPUs each process takes its own.

    Yields:
        The device of this process.

    Raises:
        ClusterError: The processes do not find each other, or one of them has ended.
        EngineError: There are fewer GPUs than processes on this machine.
    """
    if started() == 1:
        yield device
        return
    backend = "gloo"
    if device.type == "cuda":
        device = torch.device("cuda", local_rank())
        if device.index >= torch.cuda.device_count():
            raise EngineError(
                f"There is no GPU for process {device.index} of this machine. Start as "
                "many processes as there are GPUs, or use --device cpu."
            )
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    with _losing_explained():
        store, number, size = next(rendezvous("env://", timeout=PATIENCE))
        # What the processes of an earlier training told each other is still there.
        own = PrefixStore(f"training {next(_trainings)}", store)
        dist.init_process_group(
            backend, store=own, rank=number, world_size=size, timeout=PATIENCE
        )
    try:
        yield device
    finally:
        dist.destroy_process_group()


@contextmanager
def agreed() -> Iterator[None]:
    """Let all processes end where one fails in a block that exchanges nothing.

    The first that fails says why; a mistake that all would report is reported once.

    Raises:
        SystemExit: Another process has failed, or has failed before this one.
    """
    failed: HsiError | None = None
    try:
        yield
    except HsiError as error:
        failed = error
    if count() > 1:
        codes = torch.zeros(count(), dtype=torch.int32)
        codes[rank()] = 0 if failed is None else failed.exit_code
        add_up(codes)
        first = int(codes.count_nonzero() and codes.nonzero()[0])
        if codes.any() and (failed is None or first != rank()):
            raise SystemExit(int(codes[first]))
    if failed is not None:
        raise failed


def summed(tensor: Tensor) -> torch.dtype:
    """Return the type in which a tensor is summed: single precision, or better."""
    return torch.promote_types(tensor.dtype, torch.float32)


def add_up(tensor: Tensor) -> None:
    """Sum a tensor over all processes, in place; all get the same bits.

    Raises:
        ClusterError: A process has ended.
    """
    with _losing_explained():
        dist.all_reduce(tensor)


def of_first(value: float) -> float:
    """Return the value of the first process: clocks differ, and all must do the same.

    Raises:
        ClusterError: A process has ended.
    """
    if count() == 1:
        return value
    told = torch.tensor(value, dtype=torch.float64)
    with _losing_explained():
        dist.broadcast(told, src=0)
    return float(told)


@contextmanager
def folder(run: Path, names: Sequence[str]) -> Iterator[Path]:
    """Give the first process the run folder, and every other one a folder of its own.

    So all go the same way, and one writes. The other folders are removed at the end.

    Args:
        run: The run folder.
        names: Files from which a training is resumed; all processes get them.

    Raises:
        ClusterError: A process has ended.
    """
    if count() == 1:
        yield run
        return
    present: list[dict[str, bytes] | None] = [None]
    if rank() == 0:
        paths = [run / name for name in names]
        present = [{p.name: p.read_bytes() for p in paths if p.is_file()}]
    with _losing_explained():
        dist.broadcast_object_list(present, src=0)
    if rank() == 0:
        yield run
        return
    with tempfile.TemporaryDirectory(prefix="hsi-train-") as own:
        for name, content in (present[0] or {}).items():
            Path(own, name).write_bytes(content)
        yield Path(own)


@contextmanager
def _losing_explained() -> Iterator[None]:
    """Say of a connection that is lost what to do."""
    try:
        yield
    except (RuntimeError, ValueError) as error:  # gloo and NCCL; bad addresses
        if isinstance(error, HsiError):
            raise
        raise ClusterError(
            "Another process of this training has ended, or cannot be reached. Repeat "
            "the command with --resume: what is finished is kept."
        ) from error
