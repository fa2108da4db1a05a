"""Compares a network whose windows are dealt out with one that sees all; torchrun's.

torchrun --nproc-per-node N dealt.py
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hsi_train.processes import group, layers
from hsi_train.processes.dealing import average, deal

Pair = tuple[Tensor, Tensor]


class Network(nn.Module):
    """Norms of images and of volumes, dropout, and two results."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
        self.volume = nn.BatchNorm3d(2)
        self.dropout = nn.Dropout(0.3)
        self.last = nn.Conv2d(6, 3, 1)

    def forward(self, cube: Tensor) -> Pair:
        x = self.first(cube)
        x = self.volume(x.unflatten(1, (2, 3))).flatten(1, 2)
        return self.last(self.dropout(x)), x


def loss_of(network: Network, cube: Tensor, dealt: bool, weight: Tensor) -> Tensor:
    """Use results twice, one of them in another function that is dealt out."""

    def again(x: Tensor) -> Tensor:
        sizes: Tensor = (x * weight).square().mean(dim=(1, 2, 3))
        return sizes

    if dealt:
        scores, features = deal(network, cube)
        sizes = deal(again, features)
    else:
        scores, features = network(cube)
        sizes = again(features)
    target = torch.arange(len(cube)) % 3
    total: Tensor = F.cross_entropy(scores.mean(dim=(2, 3)), target)
    total = total + sizes.mean() + (features.mean() - weight).square()
    return total


def main() -> None:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    whole = Network()
    dealt = copy.deepcopy(whole)
    weights = [nn.Parameter(torch.tensor(1.5)) for _ in range(2)]
    with group.together(torch.device("cpu")):
        layers.prepare(dealt)
        for windows in (7, 2, 1):
            cube = torch.randn(windows, 4, 5, 5)
            for network, weight in zip((whole, dealt), weights, strict=True):
                network.zero_grad()
                weight.grad = None
                torch.manual_seed(windows)
                loss = loss_of(network, cube, network is dealt, weight)
                loss.backward()  # type: ignore[no-untyped-call]
            average([*dealt.parameters(), weights[1]])
            pairs = zip(
                [*whole.parameters(), weights[0]],
                [*dealt.parameters(), weights[1]],
                strict=True,
            )
            for expected, found in pairs:
                torch.testing.assert_close(found.grad, expected.grad)
            torch.testing.assert_close(dealt.state_dict(), whole.state_dict())
    cube = torch.randn(3, 4, 5, 5)
    torch.testing.assert_close(dealt.eval()(cube), whole.eval()(cube))


if __name__ == "__main__":
    main()
