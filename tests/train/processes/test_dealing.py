import subprocess
import sys

import dealt
import pytest
import torch
from torch import nn

from hsi_train.processes import layers
from hsi_train.processes.dealing import average, deal


@pytest.mark.parametrize("processes", [2, 3])
def test_results_gradients_and_statistics_are_those_of_one_process(
    processes: int,
) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes), dealt.__file__]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr


def test_alone_nothing_is_changed() -> None:
    network = dealt.Network()
    layers.prepare(network)
    assert type(network.volume) is nn.BatchNorm3d
    weight = nn.Parameter(torch.ones(3))
    weight.grad = torch.full((3,), 2.0)
    average([weight])
    assert weight.grad.tolist() == [2, 2, 2]
    assert deal(torch.square, torch.tensor([3.0])).tolist() == [9]
