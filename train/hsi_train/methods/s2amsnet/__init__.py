"""S2AMSnet: a classifier trained on one scene for scenes it has not seen.

After the method of Chen, Gao, Zhang, Chen, Yan, IEEE TGRS 62, 2024, doi
10.1109/TGRS.2024.3401231, as far as its abstract and the behaviour of the authors'
public code tell; the paper's equations were not available, and this is no reproduction
of its numbers.

A classifier of three spatial-spectral layers (a 3x3 convolution beside an involution)
learns the source scene and altered copies of it; only the classifier is exported. As
published (``generators = true``), two generators with a random style make the copies.
In a min step the classifier learns them and is made consistent between them; in a max
step the generators learn to make it inconsistent, while a mutual information (MI) term
keeps each copy recognisable.

The default makes the copies at random instead, by the changes of `hsi_train.changes`,
and mixes in a linear path that bears the same changes. Under shift it keeps more than
the generators did, in a tenth of the time: see `benchmarks/domain_shift.py`. What bears
changes of sensor and sky is blind to what they look like; where the classes of the
scene differ by just that, the held-out pixels tell, and the classifier is trained
plainly, with a warning.

Differs from the published method: every spatial operator is valid and pooling has
stride one, so that a window is classified densely; the mean over 2x2 phases restores an
odd, symmetric receptive field. Involution has ceil(C / 3) groups and no rectifier on
its kernels. The clean source is classified, too. The KL divergence is one of
probabilities, the features of MI have unit length, gradients are zeroed for every step,
the classifier takes one step in a round, and nothing of a target scene is used. What a
generator adds is smooth along the spectrum, a sum of a few cosines: so are
illumination, haze and the gain of a sensor, by which scenes differ. Last, batch
statistics are measured on the source and its copies together, not on the source alone.

One paper, one folder: `network` is exported; `generators` and `game`, by whose terms
they and the classifier compete, are training only. This file puts them together.

Axes: ``(batch, band or feature, row, col)``.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec
import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from hsi_train import changes
from hsi_train.method import IGNORED, BaseMethod, Batch, Defaults, Problem
from hsi_train.methods.s2amsnet.game import contrast, frozen, inconsistency, squares
from hsi_train.methods.s2amsnet.generators import Encoder, Generator
from hsi_train.methods.s2amsnet.network import ChannelNorm, Network
from hsi_train.processes.dealing import deal

MIXING = 0.6  # both parameters of the Beta distribution of the mixing share
GENERATOR_RATE = 0.1  # share of the classifier's learning rate

Weight = Annotated[float, Meta(ge=0, le=1e6)]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ``[options]`` table of a recipe.

    Attributes:
        generators: Train on copies that generators alter, too: the published game.
        max_step: Train the generators, too; otherwise they stay random.
        spectral_randomisation: Learn copies with random changes of sensor and sky, too;
            replaces the generators. Left open: yes, unless the held-out pixels of the
            scene itself lose more than a point by it.
        randomisation_strength: Size of these changes, as a share of the full ones.
            Where both are left open, the strongest that cost no more than that point.
        ce_on_source: Classify the clean source, too, not its altered copies only.
        kl_weight: Weight of the consistency between copies.
        mi_weight: Weight of the mutual information between a copy and its source.
        smooth_change: Let generators alter spectra smoothly, not each band by itself.
        generator_scale: Size of the change that untrained generators make.
        norm: Normalisation of the classifier: over the batch (bn), or over the channels
            of each pixel (ln).
    """

    generators: bool = False
    max_step: bool = True
    spectral_randomisation: bool | None = None
    randomisation_strength: Annotated[float, Meta(gt=0, le=1)] = 1.0
    ce_on_source: bool = True
    kl_weight: Weight = 0.1
    mi_weight: Weight = 1.0
    smooth_change: bool = True
    generator_scale: Annotated[float, Meta(gt=0, le=100)] = 0.5
    norm: Literal["bn", "ln"] = "bn"

    def __post_init__(self) -> None:
        """Refuse a contradiction."""
        if self.generators and self.spectral_randomisation:
            raise ValueError(
                "spectral_randomisation replaces the generators: set "
                "generators = false with it"
            )


class Method(BaseMethod):
    """S2AMSnet with its generators and MI encoder; only the classifier is exported."""

    receptive_field = 19
    defaults = Defaults(learning_rate=1e-3, weight_decay=0.0, batch=15)

    def __init__(self, problem: Problem, options: Options) -> None:
        super().__init__(problem)
        self.options = options
        bands = len(problem.band_mean)
        if self.path is not None:
            # What the path lacks on copies taught the classifier less than all of it.
            self.path.apart = bool(options.spectral_randomisation)
        norm = ChannelNorm if options.norm == "ln" else nn.BatchNorm2d
        self.network: Network = Network(problem, norm)
        self.generators = nn.ModuleList()
        self.encoder: Encoder | None = None
        if options.generators:
            scale, smooth = options.generator_scale, options.smooth_change
            self.generators.extend(Generator(bands, scale, smooth) for _ in range(2))
            if options.max_step and options.mi_weight:
                self.encoder = Encoder(bands)

    @classmethod
    def joins_path(cls, options: msgspec.Struct) -> bool:
        # Generators alter unit spectra, which the path does not read.
        assert isinstance(options, Options)
        return not options.generators

    @classmethod
    def bears_changes(cls, options: msgspec.Struct) -> float | None:
        assert isinstance(options, Options)
        bears = options.spectral_randomisation
        if bears is None and not options.generators:
            return None
        return options.randomisation_strength if bears else 0.0

    @property
    def last_layer(self) -> nn.Module:
        return self.network.fc2

    def losses(self, batch: Batch) -> Iterator[Tensor]:
        """Yield the min step's loss, for the classifier, and then the max step's.

        The max step reaches generators and encoder only.
        """
        if not self.options.generators:
            yield self.loss(self.with_changed(batch))
            return
        x = self.network.unit_spectra(batch.cube)
        copies = self.copies(x)
        yield self.min_loss(x, [copy.detach() for copy in copies], batch.classes)
        if self.options.max_step:
            yield self.max_loss(x, copies, batch.classes)

    def with_changed(self, batch: Batch) -> Batch:
        """Add a changed copy of every window."""
        if not self.options.spectral_randomisation:
            return batch
        # Stored values need more digits than bf16 has.
        with torch.autocast(batch.cube.device.type, enabled=False):
            cube = self.shown(batch.cube)
        return Batch(cube, batch.classes.repeat(2, 1, 1))

    def copies(self, x: Tensor) -> list[Tensor]:
        """Alter unit spectra: two by generators, and two mixed of these and the source.

        Args:
            x: Shape ``(batch, band, row, col)``, that of each copy.
        """
        altered = [generate(x) for generate in self.generators]
        shares = torch.distributions.Beta(MIXING, MIXING).sample((2,)).tolist()
        return altered + [
            share * y + (1 - share) * x
            for share, y in zip(shares, altered, strict=True)
        ]

    def shown(self, cube: Tensor) -> Tensor:
        """Return the source with its altered copies, as a min step does."""
        if self.options.spectral_randomisation:
            strength = self.options.randomisation_strength
            return torch.cat([cube, changes.draw(cube, self.problem.level, strength)])
        if not self.options.generators:
            return cube
        x = self.network.unit_spectra(cube)
        return torch.cat(self.learned(x, self.copies(x)))

    def learned(self, x: Tensor, copies: list[Tensor]) -> list[Tensor]:
        """List the cubes that a min step classifies."""
        return [x, *copies] if self.options.ce_on_source else copies

    def min_loss(self, x: Tensor, copies: list[Tensor], classes: Tensor) -> Tensor:
        """Sum the cross-entropies of the source and its copies, and their consistency.

        Args:
            x: Unit spectra, shape ``(batch, band, row, col)``.
            copies: Altered 1, altered 2, mixed 1, mixed 2, shaped like ``x``.
            classes: Class index or `IGNORED`, shape ``(batch, row, col)``.
        """
        cubes = self.learned(x, copies)
        # One pass shares batch statistics.
        scores = deal(self.network, torch.cat(cubes))
        total = F.cross_entropy(
            scores,
            classes.repeat(len(cubes), 1, 1),
            ignore_index=IGNORED,
            reduction="sum",
        )
        known = (classes != IGNORED).sum().clamp(min=1)
        of_copies = scores[-len(copies) * len(x) :].chunk(len(copies))
        consistency = inconsistency(of_copies, classes)
        return total / known + self.options.kl_weight * consistency

    def max_loss(self, x: Tensor, copies: list[Tensor], classes: Tensor) -> Tensor:
        """Reward copies that the present classifier does not classify alike.

        Args:
            x: Unit spectra, shape ``(batch, band, row, col)``.
            copies: Altered 1, altered 2, mixed 1, mixed 2, shaped like ``x``.
            classes: Class index or `IGNORED`, shape ``(batch, row, col)``.
        """
        with frozen(self.network):
            scores = deal(self.network, torch.cat(copies))
        consistency = inconsistency(scores.chunk(len(copies)), classes)
        loss = -self.options.kl_weight * consistency
        if self.encoder is not None:
            patches = [squares(y, self.receptive_field) for y in (x, *copies[:2])]
            taps = [tap.chunk(3) for tap in self.encoder(torch.cat(patches))]
            for own, *others in taps:
                for other in others:
                    information = contrast(other, own) / len(taps)
                    loss = loss + self.options.mi_weight * information
        return loss

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Group the parameters; the generators learn at a tenth of the rate."""
        slow = list(self.generators.parameters())
        fast = [p for n, p in self.named_parameters() if not n.startswith("generators")]
        groups = [{"params": fast, "lr": learning_rate}]
        if slow:
            groups.append({"params": slow, "lr": GENERATOR_RATE * learning_rate})
        return groups
