"""S2VNet: classification with unmixing; every class has an endmember.

After the abstract and the published behaviour of Han, Yang, Gao, Zeng, Zhang,
Chanussot, "Subpixel Spectral Variability Network for Hyperspectral Image
Classification", IEEE TGRS 63, 2025, doi 10.1109/TGRS.2025.3535749. A pointwise
autoencoder splits each pixel into abundances of K endmembers, one for each class; a
small variational network varies the endmembers during training. Abundances around the
pixel, spatial features (convolutions and retention: attention whose reach decays with
distance) and the cosine between the local mean spectrum and each endmember are fused
into the class scores.

Differs from the paper:

- every spatial operator is valid (no zero padding), so a window is classified densely
  and each pixel sees its real neighbours; the pixel's own state is classified;
- endmembers are a function of trained weights (softplus), and evaluation takes the mean
  of the variational network: nothing random, nothing replaced;
- endmembers are spectra in stored units, so dark materials (water, shade, asphalt) are
  expressible, and an abundance is a share of the pixel's area. Brightness is no part of
  it: reconstructions are compared by their angle, and pulled weakly to the brightness
  of the pixel;
- an anchor gives abundances their meaning: the encoder unmixes mixtures of labelled
  pixels, whose shares are known (`objective.mixtures`); reconstruction alone cannot
  tell a dark material from shade, nor two like materials apart;
- the exported abundances also weigh what lies around the pixel and the probabilities
  of its classes (`network.UnmixingGraph`);
- the nonlinear term pays for its size, so that it completes the mixture and leaves
  the explaining to the endmembers (a sparse residual term, as in Fevotte, Dobigeon,
  IEEE TIP 24, 2015); free, it drew them away from the materials;
- the cosine is a true one, of the linear mixture ``E A`` with E at unit peak. The mean
  of ``E A`` is ``E`` times the mean of ``A``, so the exported graph needs only K x K
  constants;
- no gate: the published one makes a pixel's class depend on the rest of the batch.

One paper, one folder: `network` and its part `spatial` are exported, `endmembers` and
`objective` are training only. This file puts them together.

Symbols: B bands, K classes, A abundances, E endmembers ``(band, endmember)``.
"""

from collections.abc import Iterator
from functools import partial
from typing import Annotated, NamedTuple

import msgspec
import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from hsi_runtime.model.model_file import ABUNDANCES, PROBABILITIES
from hsi_train.layers import crop_to
from hsi_train.method import BaseMethod, Batch, Defaults, Problem
from hsi_train.methods.s2vnet.endmembers import (
    NonlinearTerm,
    Variability,
    Variation,
    divergence,
    initial_theta,
    relative_sizes,
    shapes,
    spectral_angles,
)
from hsi_train.methods.s2vnet.network import Network, UnmixingGraph, fold, folded
from hsi_train.methods.s2vnet.objective import (
    brightness,
    labelled,
    mixtures,
    roughness,
    share_loss,
)
from hsi_train.processes.dealing import deal

Weight = Annotated[float, Meta(ge=0, le=1e3)]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ``[options]`` table of a recipe.

    Attributes:
        cosine: Compare the local mean spectrum with the endmembers.
        nonlinear_decoder: Complete the reconstruction by a nonlinear term; training
            only.
        nonlinear_weight: Weight of that term's size relative to the linear mixture.
            The term reduces the angle by its size at most; from 1 on it would not pay.
        variability: Vary the endmembers during training.
        anchor_weight: Weight of the term that makes abundances agree with labels, in
            mixtures of labelled pixels.
        kl_weight: Weight of the Kullback-Leibler divergence of the variational network.
        tv_weight: Weight of the total variation of abundances in space and of
            perturbations along the used bands.
        brightness_weight: Weight of the term that pulls endmembers to the brightness
            of the scene.
        class_weighting: 0 weights all training pixels equally, 1 all classes.
    """

    cosine: bool = True
    nonlinear_decoder: bool = True
    nonlinear_weight: Weight = 0.1
    variability: bool = True
    anchor_weight: Weight = 1.0
    kl_weight: Weight = 0.01
    tv_weight: Weight = 0.01
    brightness_weight: Weight = 0.1
    class_weighting: Annotated[float, Meta(ge=0, le=1)] = 0.25


class Unmixing(NamedTuple):
    """One pass of the autoencoder in training.

    Attributes:
        loss: Spectral angle, brightness and regularisation, no axes.
        abundances: Abundances of all pixels, shape ``(batch, endmember, row, col)``.
        endmembers: Endmembers as varied in this pass, shape ``(band, endmember)``.
    """

    loss: Tensor
    abundances: Tensor
    endmembers: Tensor


class Method(BaseMethod):
    """S2VNet; endmember weights, variability and decoder exist for training only."""

    receptive_field = 11
    outputs = (PROBABILITIES, ABUNDANCES)
    defaults = Defaults(learning_rate=4e-3, weight_decay=1e-4, noise=0.02, batch=30)
    network: Network
    unit: Tensor

    def __init__(self, problem: Problem, options: Options) -> None:
        super().__init__(problem, options.class_weighting)
        self.options = options
        bands, classes = len(problem.band_mean), len(problem.class_counts)
        # Values without a positive one have no brightness to scale by.
        unit = problem.top if problem.top > 0 else torch.ones(())
        self.register_buffer("unit", unit.float())
        self.theta = nn.Parameter(initial_theta(problem.class_means, unit))
        self.variability = Variability(classes) if options.variability else None
        self.nonlinear = NonlinearTerm(bands) if options.nonlinear_decoder else None
        with torch.no_grad():
            endmembers = shapes(self._vary(False)[0])
            self.network = Network(problem, endmembers, options.cosine)

    @property
    def last_layer(self) -> nn.Module:
        return self.network.fuse

    def _vary(self, sample: bool) -> tuple[Tensor, Variation | None]:
        """Vary the endmembers ``(band, endmember)``, in units of `unit`."""
        spectra = F.softplus(self.theta)
        variation = None
        if self.variability is not None:
            variation = self.variability(spectra, sample)
            spectra = F.relu(spectra * variation.scale + variation.shift)
        return spectra, variation

    @torch.no_grad()
    def endmembers(self) -> Tensor:
        return self._vary(False)[0].T * self.unit

    def losses(self, batch: Batch) -> Iterator[Tensor]:
        """Yield the one loss; then fold the changed endmembers into the network.

        So the network's constants always match the weights when it is evaluated,
        copied or saved next.
        """
        # The angle and the cosine need more digits than bf16 has.
        exact = torch.autocast(batch.cube.device.type, enabled=False)
        with exact:
            total = self._objective(batch)
        yield total
        with exact:
            self.fold_constants()

    @torch.no_grad()
    def fold_constants(self) -> None:
        if self.network.cosine is not None:
            constants = fold(shapes(self._vary(False)[0]))
            self.network.cosine.gram.copy_(constants.gram)
            self.network.cosine.norms.copy_(constants.norms)

    def _objective(self, batch: Batch) -> Tensor:
        unmixed = self.unmix(batch.cube)
        constants = fold(shapes(unmixed.endmembers))
        classify = partial(self.network.scores, constants=constants)
        scores = deal(classify, batch.cube, unmixed.abundances)
        anchored = self._anchor(batch, unmixed.endmembers)
        return self.cross_entropy(scores, batch) + unmixed.loss + anchored

    def _anchor(self, batch: Batch, endmembers: Tensor) -> Tensor:
        """Unmix mixtures of labelled pixels, and mix endmembers by their true shares.

        Args:
            batch: Windows with labels.
            endmembers: Shape ``(band, endmember)``.
        """
        own = crop_to(batch.cube, *batch.classes.shape[-2:])
        spectra, classes = labelled(own, batch.classes)
        if not len(classes):
            return spectra.new_zeros(())
        mixed = mixtures(spectra, classes, len(self.class_weights))
        linear = F.conv2d(mixed.shares, endmembers[..., None, None])
        angle = spectral_angles(mixed.cube / self.unit, linear).mean()
        loss = share_loss(self.network.codes(mixed.cube), mixed.shares)
        return self.options.anchor_weight * (loss + angle)

    def unmix(self, cube: Tensor) -> Unmixing:
        """Unmix and reconstruct a cube, with varied endmembers and without labels.

        Args:
            cube: Stored units, shape ``(batch, band, row, col)``.
        """
        endmembers, variation = self._vary(sample=True)
        reconstruct = partial(self._reconstruct, endmembers)
        abundances, angles, lights, *sizes = deal(reconstruct, cube)
        loss = self.options.tv_weight * roughness(abundances)
        loss = loss + self.options.brightness_weight * lights.mean()
        for size in sizes:
            loss = loss + self.options.nonlinear_weight * size.mean()
        loss = loss + angles.mean()
        if variation is not None:
            loss = loss + self.options.kl_weight * divergence(variation)
            # Used bands are compared with the next one, also across dropped bands.
            steps = variation.shift.diff(dim=0).abs()
            loss = loss + self.options.tv_weight * steps.sum() / max(steps.numel(), 1)
        return Unmixing(loss, abundances, endmembers)

    def _reconstruct(self, endmembers: Tensor, cube: Tensor) -> tuple[Tensor, ...]:
        """Unmix a cube and mix it again.

        Args:
            endmembers: Shape ``(band, endmember)``.
            cube: Stored units, shape ``(batch, band, row, col)``.

        Returns:
            Abundances ``(batch, endmember, row, col)``; the angle between each spectrum
            and its reconstruction, ``(batch, row, col)``; and shaped like the angles,
            their difference in brightness and, if there is a nonlinear part, its
            relative size.
        """
        abundances = self.network.abundances(cube)
        linear = F.conv2d(abundances, endmembers[..., None, None])
        spectra = cube / self.unit
        lights = brightness(spectra, linear)
        if self.nonlinear is None:
            return abundances, spectral_angles(spectra, linear), lights
        term = self.nonlinear(linear)
        angles = spectral_angles(spectra, linear + term)
        return abundances, angles, lights, relative_sizes(term, linear)

    def inference_graph(self) -> nn.Module:
        return UnmixingGraph(self.network, self.probabilities, self.path)

    def folded_graph(self) -> nn.Module:
        network = folded(self.network)
        return UnmixingGraph(network, self.probabilities, self.path)
