"""S2Former's diffusion-aligned fine-tuning: features are distilled from a teacher."""

import copy
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hsi_train.methods.s2former.network import FEATURES, Network

DIFFUSION_STEPS = 200
TIMES = (150, 100, 60, 20)  # diffusion steps at which trajectories are compared


class Denoiser(nn.Module):
    """Predicts a feature vector from a noisy one and the time of the diffusion."""

    def __init__(self, hidden: int = 384) -> None:
        super().__init__()
        self.time = nn.Embedding(DIFFUSION_STEPS, FEATURES)
        self.norm = nn.LayerNorm(FEATURES)
        self.mlp = nn.Sequential(
            *(nn.Linear(FEATURES, hidden), nn.SiLU(), nn.Linear(hidden, hidden)),
            *(nn.SiLU(), nn.Linear(hidden, FEATURES)),
        )

    def forward(self, noisy: Tensor, time: Tensor) -> Tensor:
        """Map ``(pixel, feature)`` and times ``(pixel,)`` to denoised features."""
        out: Tensor = noisy + self.mlp(self.norm(noisy + self.time(time)))
        return out


class Distillation(nn.Module):
    """DAFT: train the student to be denoised along the same path as the teacher.

    A feature is noised to several levels and denoised; the path of the results as the
    noise falls is the sample's trajectory. Nothing of it is exported.
    """

    signal: Tensor

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.teacher = copy.deepcopy(network).requires_grad_(False)
        self.denoiser = Denoiser()
        beta = torch.linspace(1e-4, 2e-2, DIFFUSION_STEPS, dtype=torch.float64)
        # Share of the signal's power left at each time.
        signal = torch.cumprod(1 - beta, 0).float()
        self.register_buffer("signal", signal, persistent=False)

    def noised(self, z: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """Mix features and noise as they are at a time ``(pixel,)``."""
        signal = self.signal[time][:, None]
        return signal.sqrt() * z + (1 - signal).sqrt() * noise

    def denoising_loss(self, teacher: Tensor) -> Tensor:
        """Average the denoiser's squared error on features ``(pixel, feature)``."""
        teacher = teacher.detach()
        time = torch.randint(DIFFUSION_STEPS, teacher.shape[:1], device=teacher.device)
        noisy = self.noised(teacher, torch.randn_like(teacher), time)
        loss: Tensor = (self.denoiser(noisy, time) - teacher).square().mean()
        return loss

    def trajectory_losses(
        self, student: Tensor, teacher: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Compare the paths, and their steps; the denoiser gets no gradient."""
        fixed = {k: p.detach() for k, p in self.denoiser.named_parameters()}
        noise = torch.randn_like(teacher)

        def path(z: Tensor) -> list[Tensor]:
            times = [torch.full(z.shape[:1], t, device=z.device) for t in TIMES]
            return [
                torch.func.functional_call(
                    self.denoiser, fixed, (self.noised(z, noise, time), time)
                )
                for time in times
            ]

        ours, theirs = path(student), [h.detach() for h in path(teacher)]
        along = torch.stack(
            [1 - F.cosine_similarity(s, t) for s, t in zip(ours, theirs, strict=True)]
        )
        steps = torch.stack(
            [
                ((s2 - s1) - (t2 - t1)).square().mean()
                for (s1, s2), (t1, t2) in zip(
                    pairwise(ours), pairwise(theirs), strict=True
                )
            ]
        )
        return along.mean(), steps.mean()

    @torch.no_grad()
    def follow(self, network: nn.Module, momentum: float) -> None:
        """Move the teacher's weights towards the student's."""
        pairs = zip(self.teacher.parameters(), network.parameters(), strict=True)
        for ours, theirs in pairs:
            ours.lerp_(theirs, 1 - momentum)


def unit(features: Tensor) -> Tensor:
    """Centre and scale every feature vector."""
    return F.layer_norm(features, features.shape[-1:])


def another_view(features: Callable[[Tensor], Tensor], cube: Tensor) -> Tensor:
    """Compute features of windows turned and flipped at random, and turn them back."""
    draw = int(torch.randint(0, 8, ()))
    turned = torch.rot90(cube.flip(-1) if draw >= 4 else cube, draw % 4, (-2, -1))
    seen = torch.rot90(features(turned), -(draw % 4), (1, 2))
    return seen.flip(2) if draw >= 4 else seen
