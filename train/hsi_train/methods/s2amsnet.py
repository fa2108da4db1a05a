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
generator adds is smooth along the spectrum, a sum of `SMOOTH` cosines: so are
illumination, haze and the gain of a sensor, by which scenes differ. Last, batch
statistics are measured on the source and its copies together, not on the source alone.

Axes: ``(batch, band or feature, row, col)``.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce
from typing import Annotated, Any, Literal

import msgspec
import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from hsi_train import changes
from hsi_train.method import IGNORED, BaseMethod, Batch, Defaults, Problem
from hsi_train.processes.dealing import deal

FEATURES = 128
PLANES = 3  # channels that share an involution kernel
STYLED = 24  # features of a generator
SMOOTH = 8  # number of cosines along the spectrum
MIXING = 0.6  # both parameters of the Beta distribution of the mixing share
TEMPERATURE = 0.07
GENERATOR_RATE = 0.1  # share of the classifier's learning rate

Norm = Callable[[int], nn.Module]
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


class UnitSpectra(nn.Module):
    """Scale every spectrum to a root mean square of one; a zero spectrum stays zero."""

    scale: Tensor

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        # It cancels out, but keeps the squares of stored values in any type's range.
        power = (problem.band_mean**2 + problem.band_std**2).mean()
        self.register_buffer("scale", power.rsqrt().float())

    def forward(self, cube: Tensor) -> Tensor:
        """Map ``(batch, band, row, col)`` to the same shape, unitless."""
        cube = cube * self.scale
        power = cube.square().mean(dim=1, keepdim=True)  # (batch, 1, row, col)
        return cube * torch.where(power > 0, power, 1).rsqrt()


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of each pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, channel, row, col)`` to the same shape."""
        variance, mean = torch.var_mean(x, dim=1, correction=0, keepdim=True)
        normalised: Tensor = (x - mean) * (variance + 1e-5).rsqrt()
        return normalised * self.weight + self.bias


class Involution(nn.Module):
    """Filter each pixel by 3x3 kernels that are computed from that pixel.

    The channels lie in three planes of G = ceil(C / 3); the channels c, c + G and
    c + 2 G share a kernel.
    """

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        groups, hidden = -(-channels // PLANES), max(channels // 5, 1)
        self.kernels = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False),
            norm(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, 9 * groups, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, channel, row, col)`` to rows and columns less two."""
        channels = x.shape[1]
        kernels = self.kernels(x[:, :, 1:-1, 1:-1])
        kernels = torch.unflatten(kernels, 1, (9, -1))  # (batch, 9, group, row, col)
        groups = kernels.shape[2]
        if channels % PLANES:
            x = F.pad(x, (0, 0, 0, 0, 0, PLANES * groups - channels))
        planes = torch.unflatten(x, 1, (PLANES, groups))  # (batch, plane, group, ...)
        if self.training:
            # CPUs are fast with matrices of half precision, and slow with its values.
            wide = torch.promote_types(kernels.dtype, torch.float32)
            apply: Any = _Involve.apply
            filtered: Tensor = apply(planes.to(wide), kernels.to(wide)).to(x.dtype)
        else:
            filtered = involve(planes, kernels)
        return filtered.flatten(1, 2)[:, :channels]


def involve(planes: Tensor, kernels: Tensor) -> Tensor:
    """Sum the nine neighbours of each pixel, weighted by its own kernels.

    Args:
        planes: Shape ``(batch, plane, group, row + 2, col + 2)``.
        kernels: Shape ``(batch, 9, group, row, col)``; planes share them.

    Returns:
        Shape ``(batch, plane, group, row, col)``.
    """
    parts = enumerate(_shifted(planes))
    return reduce(
        torch.add, (p * kernels[:, offset : offset + 1] for offset, p in parts)
    )


def _shifted(planes: Tensor) -> Iterator[Tensor]:
    """Yield views of the neighbours of all inner pixels, row by row."""
    rows, cols = planes.shape[-2] - 2, planes.shape[-1] - 2
    for top in range(3):
        for left in range(3):
            yield planes[..., top : top + rows, left : left + cols]


class _Involve(torch.autograd.Function):
    """`involve`, whose sums grow in place: less than half the time in training."""

    @staticmethod
    def forward(ctx: Any, planes: Tensor, kernels: Tensor) -> Tensor:
        ctx.save_for_backward(planes, kernels)
        parts = enumerate(_shifted(planes))
        total = next(parts)[1] * kernels[:, :1]
        for offset, part in parts:
            total.addcmul_(part, kernels[:, offset : offset + 1])
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor]:
        planes, kernels = ctx.saved_tensors
        of_planes = torch.zeros_like(planes) if ctx.needs_input_grad[0] else None
        of_kernels = torch.empty_like(kernels)
        if of_planes is not None:
            for offset, part in enumerate(_shifted(of_planes)):
                part.addcmul_(gradient, kernels[:, offset : offset + 1])
        for offset, part in enumerate(_shifted(planes)):
            total = torch.mul(gradient[:, 0], part[:, 0], out=of_kernels[:, offset])
            for plane in range(1, PLANES):
                total.addcmul_(gradient[:, plane], part[:, plane])
        return of_planes, of_kernels


class SpatialSpectral(nn.Module):
    """A 3x3 convolution beside an involution, mixed in shares that sum to one."""

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        self.spatial = nn.Sequential(
            nn.Conv2d(channels, FEATURES, 3, bias=False), norm(FEATURES), nn.ReLU()
        )
        self.spectral = nn.Sequential(
            Involution(channels, norm),
            nn.Conv2d(channels, FEATURES, 1, bias=False),
            norm(FEATURES),
            nn.ReLU(),
        )

    def forward(self, x: Tensor, shares: Tensor) -> Tensor:
        """Map ``(batch, channel, row, col)`` to `FEATURES`, rows and columns less two.

        Args:
            x: Features.
            shares: Shares of the spectral and the spatial branch, shape ``(2,)``.
        """
        mixed: Tensor = shares[0] * self.spectral(x) + shares[1] * self.spatial(x)
        return mixed


class Network(nn.Module):
    """From a cube to class scores, with 18 rows and columns fewer."""

    def __init__(self, problem: Problem, norm: Norm) -> None:
        super().__init__()
        bands, classes = len(problem.band_mean), len(problem.class_counts)
        self.unit_spectra = UnitSpectra(problem)
        self.layers = nn.ModuleList(
            SpatialSpectral(channels, norm) for channels in (bands, FEATURES, FEATURES)
        )
        self.pair = nn.Parameter(torch.zeros(2))  # equal shares, one pair for all
        for module in self.layers.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
        # After pooling with stride one, neighbours of the published grid lie two apart.
        self.fc1 = nn.Conv2d(FEATURES, FEATURES, 6, dilation=2)
        self.fc2 = nn.Conv2d(FEATURES, classes, 1)

    def forward(self, cube: Tensor) -> Tensor:
        """Map a cube, in any unit that is proportional to the stored one, to scores."""
        x = self.unit_spectra(cube)
        shares = torch.softmax(self.pair, dim=0)
        for layer in self.layers:  # rows and columns less two in each
            x = layer(x, shares)
        x = F.max_pool2d(x, 2, stride=1)  # less one
        scores = self.fc2(F.relu(self.fc1(x)))  # less ten
        return F.avg_pool2d(scores, 2, stride=1)  # less one


class Generator(nn.Module):
    """Alters spectra by features with a random style; training only."""

    basis: Tensor

    def __init__(self, bands: int, scale: float, smooth: bool) -> None:
        super().__init__()
        self.involutions = nn.ModuleList(
            nn.Sequential(
                nn.ReflectionPad2d(1),
                Involution(channels, _batch_norm),
                nn.Conv2d(channels, STYLED, 1, bias=False),
            )
            for channels in (bands, STYLED, STYLED)
        )
        self.convolutions = nn.ModuleList(
            _same_conv(channels, STYLED) for channels in (bands, STYLED, STYLED)
        )
        self.style = nn.Linear(2, 2 * STYLED)
        self.normalise = nn.InstanceNorm2d(STYLED)
        self.batch_norm = _batch_norm(STYLED)
        curves = torch.from_numpy(changes.cosines(bands, SMOOTH)).float()
        basis = curves if smooth else torch.eye(bands)
        self.register_buffer("basis", basis[..., None, None])
        self.output = nn.Conv2d(STYLED, basis.shape[1], 3)
        nn.init.normal_(self.output.weight, std=scale / math.sqrt(9 * STYLED))
        assert self.output.bias is not None
        nn.init.zeros_(self.output.bias)
        self.pair = nn.Parameter(torch.zeros(2))  # equal shares of source and change

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, band, row, col)`` to the same shape, each sample its style."""
        z = x
        for involution, convolution in zip(
            self.involutions, self.convolutions, strict=True
        ):
            z = involution(z) + convolution(z)
            # Drawn on the CPU, whose random state a resumed run restores.
            style = self.style(torch.randn(len(x), 2).to(x.device))
            gain, offset = style[:, :, None, None].chunk(2, dim=1)
            z = (1 + gain) * self.normalise(z) + offset
            z = F.leaky_relu(self.batch_norm(z), 0.01)
        shares = torch.softmax(self.pair, dim=0)
        change = self.output(F.pad(z, (1, 1, 1, 1), mode="reflect"))
        change = F.conv2d(change, self.basis)
        altered: Tensor = shares[0] * x + shares[1] * change
        return altered


class Residual(nn.Module):
    """Two 3x3 convolutions with a skip, without biases: InstanceNorm cancels them."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _same_conv(features, features),
            nn.InstanceNorm2d(features),
            nn.ReLU(),
            _same_conv(features, features),
            nn.InstanceNorm2d(features),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, feature, row, col)`` to the same shape."""
        out: Tensor = x + self.body(x)
        return out


class Blur(nn.Module):
    """Halve rows and columns after a binomial filter."""

    kernel: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 2.0, 1.0]) / 4
        kernel = (taps[:, None] * taps).expand(features, 1, 3, 3).clone()
        self.register_buffer("kernel", kernel, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, feature, row, col)`` to half the rows and columns."""
        padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
        return F.conv2d(padded, self.kernel, stride=2, groups=len(self.kernel))


class Encoder(nn.Module):
    """Features at five depths, by which MI compares patches; training only.

    The published encoder has a sixth residual block, after the last depth that is used.
    """

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            [
                nn.ReflectionPad2d(3),
                nn.Sequential(
                    nn.Conv2d(bands, 8, 7, bias=False),
                    nn.InstanceNorm2d(8),
                    nn.ReLU(),
                    nn.Conv2d(8, 16, 3, padding=1),
                ),
                nn.Sequential(
                    nn.InstanceNorm2d(16),
                    nn.ReLU(),
                    Blur(16),
                    nn.Conv2d(16, 32, 3, padding=1),
                ),
                nn.Sequential(nn.InstanceNorm2d(32), nn.ReLU(), Blur(32), Residual(32)),
                nn.Sequential(*(Residual(32) for _ in range(4))),
            ]
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map ``(batch, band, row, col)`` to features ``(batch, feature)``."""
        taps = []
        for stage in self.stages:
            x = stage(x)
            taps.append(x.flatten(1))
        return taps


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


def _batch_norm(features: int) -> nn.Module:
    # Generators always use the statistics of the batch.
    return nn.BatchNorm2d(features, track_running_stats=False)


def _same_conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ReflectionPad2d(1), nn.Conv2d(inputs, outputs, 3, bias=False)
    )
