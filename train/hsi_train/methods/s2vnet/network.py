"""The network of S2VNet, which is exported, and the graph around it."""

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hsi_train.layers import (
    LinearPath,
    Probabilities,
    Standardise,
    class_softmax,
    crop_to,
    fold_standardise,
)
from hsi_train.method import Problem
from hsi_train.methods.s2vnet.spatial import SpatialNetwork

AROUND = (5, 7)  # sides of the squares whose means a pixel's shares are weighed by


class Constants(NamedTuple):
    """The constants that the cosine computes from endmembers.

    Attributes:
        gram: ``E^T E``, shape ``(endmember, endmember)``.
        norms: Length of each endmember, shape ``(endmember,)``.
    """

    gram: Tensor
    norms: Tensor


def fold(endmembers: Tensor) -> Constants:
    """Compute the constants of endmembers ``(band, endmember)``."""
    return Constants(endmembers.T @ endmembers, endmembers.norm(dim=0))


class Cosine(nn.Module):
    """Cosine between the mean mixture of 7 x 7 pixels and each endmember.

    With E >= 0 of unit peak, ``a^T G a >= 1 / K``: the root needs no epsilon.
    """

    gram: Tensor
    norms: Tensor

    def __init__(self, endmembers: Tensor) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(5.0))
        for name, value in fold(endmembers)._asdict().items():
            self.register_buffer(name, value)

    def cosines(self, abundances: Tensor, constants: Constants) -> Tensor:
        """Map ``(batch, endmember, row, col)`` to rows and columns less six."""
        mean = F.avg_pool2d(abundances, 7, stride=1)
        projected = F.conv2d(mean, constants.gram[..., None, None])
        energy = (mean * projected).sum(dim=1, keepdim=True)
        return projected / (energy.sqrt() * constants.norms[:, None, None])

    def forward(self, abundances: Tensor, constants: Constants | None) -> Tensor:
        """Return centred, scaled cosines, by the folded constants unless given."""
        constants = constants or Constants(self.gram, self.norms)
        cosines = self.cosines(abundances, constants)
        return self.scale * (cosines - cosines.mean(dim=1, keepdim=True))


class Network(nn.Module):
    """From a cube to class scores, with ten rows and columns fewer."""

    def __init__(self, problem: Problem, endmembers: Tensor, cosine: bool) -> None:
        super().__init__()
        bands, classes = len(problem.band_mean), len(problem.class_counts)
        first, second = max(bands // 2, classes), max(bands // 4, classes)
        self.standardise: nn.Module = Standardise(problem.band_mean, problem.band_std)
        # Without norms: mixtures are encoded alone, and statistics of theirs are not
        # those of a scene.
        self.encoder = nn.Sequential(
            nn.Conv2d(bands, first, 1),
            nn.ReLU(),
            nn.Conv2d(first, second, 1),
            nn.ReLU(),
            nn.Conv2d(second, classes, 1),
        )
        self.spatial = SpatialNetwork(bands, classes)
        self.neighbourhood = nn.Sequential(
            nn.Conv2d(classes, classes, 3, bias=False),
            nn.BatchNorm2d(classes),
            nn.ReLU(),
            nn.Conv2d(classes, classes, 3, dilation=2),
        )
        self.cosine = Cosine(endmembers) if cosine else None
        self.fuse_spatial = nn.Conv2d(classes, classes, 1)
        self.fuse = nn.Conv2d((1 + cosine) * classes, classes, 1)

    def forward(self, cube: Tensor) -> Tensor:
        """Map a cube in stored units to class scores."""
        return self.scores(cube, self.abundances(cube))

    def codes(self, cube: Tensor) -> Tensor:
        """Return the logarithms of a pixel's shares, up to a constant.

        Args:
            cube: Stored units, shape ``(batch, band, row, col)``.

        Returns:
            Shape ``(batch, endmember, row, col)``.
        """
        codes: Tensor = self.encoder(self.standardise(cube))
        return codes

    def abundances(self, cube: Tensor) -> Tensor:
        """Unmix every pixel: ``(batch, band, ...)`` to ``(batch, endmember, ...)``."""
        return class_softmax(self.codes(cube))

    def scores(
        self, cube: Tensor, abundances: Tensor, constants: Constants | None = None
    ) -> Tensor:
        """Classify pixels whose abundances are known.

        Args:
            cube: Stored units, shape ``(batch, band, row, col)``.
            abundances: Abundances of the same pixels, shape
                ``(batch, endmember, row, col)``.
            constants: Constants of other endmembers than the folded ones.

        Returns:
            Class scores, shape ``(batch, class, row - 10, col - 10)``.
        """
        spatial = self.fuse_spatial(self.spatial(self.standardise(cube)))
        around = crop_to(abundances, cube.shape[-2] - 4, cube.shape[-1] - 4)
        fused = self.neighbourhood(around) + spatial
        if self.cosine is not None:
            fused = torch.cat([fused, self.cosine(around, constants)], dim=1)
        scores: Tensor = self.fuse(fused)
        return scores


def among_neighbours(abundances: Tensor) -> Tensor:
    """Weigh the shares of a pixel by the materials' mean shares around it.

    A spectrum alone leaves open which of two like materials it shows. Mixtures in
    training hold all materials alike; a neighbourhood holds few of them. So shares are
    weighed by their mean around, first in a small square, then by the result in a
    larger one (as posterior probabilities are for other frequencies of classes:
    Saerens, Latinne, Decaestecker, Neural Computation 14, 2002).

    Args:
        abundances: Shape ``(batch, endmember, row, col)``.

    Returns:
        Shares that sum to one again, rows and columns less ten.
    """
    near = _weighed(abundances, F.avg_pool2d(abundances, AROUND[0], stride=1))
    return _weighed(abundances, F.avg_pool2d(near, AROUND[1], stride=1))


def _weighed(abundances: Tensor, mean: Tensor) -> Tensor:
    # The factor keeps sums within half precision: they are 1 / (49 K) at least.
    own = crop_to(abundances, *mean.shape[-2:]) * abundances.shape[1]
    product = own * mean
    shares: Tensor = product / product.sum(dim=1, keepdim=True)
    return shares


class UnmixingGraph(nn.Module):
    """The exported function: from a cube to class probabilities and abundances.

    A share is the mean of two estimates: what the spectra say, and the probability of
    the class, which the spatial network sees better where two materials look alike.
    Spectra alone give the smaller errors of pixels, the mean those of areas.
    """

    def __init__(
        self, network: Network, probabilities: Probabilities, path: LinearPath | None
    ) -> None:
        super().__init__()
        self.network = network
        self.probabilities = probabilities
        self.path = path

    def forward(self, cube: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``(batch, band, height, width)`` to two ``(batch, class, ...)``.

        Height and width of both shrink by twice the halo.
        """
        abundances = self.network.abundances(cube)
        scores = self.network.scores(cube, abundances)
        if self.path is not None:
            scores = self.path.joined(cube, scores)
        probabilities = self.probabilities(scores)
        spectral = among_neighbours(abundances)
        return probabilities, (spectral + probabilities) / 2


def folded(network: Network) -> Network:
    """Copy a network, with its preprocessing folded into the first layers.

    Both branches then read the stored values.
    """
    twin = copy.deepcopy(network)
    assert isinstance(twin.standardise, Standardise)
    for layer in (twin.spatial.stem[0], twin.encoder[0]):
        assert isinstance(layer, nn.Conv2d)
        fold_standardise(layer, twin.standardise)
    twin.standardise = nn.Identity()
    return twin
