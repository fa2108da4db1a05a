"""Trains recipes one after another and keeps losses, on one process or on several.

    torchrun --nproc-per-node N trainings.py TRAININGS.json

The file holds a list of `Training`. Imported, `run` does the same in this process.
"""

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn

from hsi_train import finishing, methods, recipe, training
from hsi_train.fitting import optimisation
from hsi_train.fitting.progress import Watch
from hsi_train.fitting.windows import Windows
from hsi_train.processes.launch import rank


class Training(NamedTuple):
    """A recipe and how to train it.

    Attributes:
        content: The recipe.
        run: Folder of the run; losses are written beside it.
        wide: Compute in double precision, so that sums of another order are the same.
        resume: Go on with it.
        die_at: Step at which the last process is killed; 0 for none.
    """

    content: dict[str, Any]
    run: str
    wide: bool = False
    resume: bool = False
    die_at: int = 0


def run(trainings: list[Training]) -> None:
    for one in trainings:
        losses: list[float] = []

        def step(
            done: int, _: int, loss: float, one: Training = one, kept: Any = losses
        ) -> None:
            kept.append(loss)
            if done == one.die_at and rank() == int(os.environ["WORLD_SIZE"]) - 1:
                os.kill(os.getpid(), signal.SIGKILL)

        settings = recipe.parse(one.content)
        with double_precision() if one.wide else single_precision():
            result = training.train(
                settings, Path(one.run), "cpu", one.resume, watch=Watch(step=step)
            )
        if rank() == 0:
            accuracy = result["overall_accuracy"]
            Path(one.run + ".json").write_text(json.dumps([losses, accuracy]))


@contextmanager
def single_precision() -> Iterator[None]:
    """Compute no product in bf16, whatever the processor can."""
    with mock.patch.object(optimisation, "trains_in_bf16", return_value=False):
        yield


@contextmanager
def double_precision() -> Iterator[None]:
    """Train in double precision, and measure nothing, which is done in single."""
    build, batch = methods.build, Windows.batch

    def wide_method(*arguments: Any) -> Any:
        torch.set_default_dtype(torch.float32)  # that of the statistics
        method = build(*arguments).double()
        torch.set_default_dtype(torch.float64)

        def widen(_: nn.Module, cubes: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return tuple(cube.double() for cube in cubes)

        method.network.register_forward_pre_hook(widen)
        return method

    def wide_batch(*arguments: Any) -> Any:
        cut = batch(*arguments)
        return cut._replace(cube=cut.cube.double())

    nothing = {"overall_accuracy": None}
    with (
        single_precision(),
        mock.patch.object(methods, "build", wide_method),
        mock.patch.object(Windows, "batch", wide_batch),
        mock.patch.object(finishing, "measure", return_value=nothing),
        mock.patch.object(finishing, "write"),
    ):
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)


if __name__ == "__main__":
    torch.set_num_threads(1)
    content = json.loads(Path(sys.argv[1]).read_text())
    run([Training(*one) for one in content])
