"""S2Former's pre-training: reconstruction of hidden pixels, in space and frequency."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hsi_train.methods.s2former.network import (
    BLOCKS,
    GROUPS,
    PSEUDO_BANDS,
    REACH,
    SIDE,
    SPATIAL,
    SPECTRAL,
    Options,
    crop,
)

Encode = Callable[[Tensor], tuple[Tensor, Tensor]]
CLIP = 5.0  # standard deviations, in pre-training


class Pretraining(nn.Module):
    """Hides pixels and predicts their spectra; nothing of it is exported.

    A spectrum is predicted as the adapter returns it, with its brightness. When only
    its shape was predicted, centred and scaled, the fitted head lost 7 to 8 points on
    EnMAP and gained 1 to 4 on SalinasA (ten draws, none of them reported).
    """

    def __init__(self, options: Options) -> None:
        super().__init__()
        self._options = options
        width = PSEUDO_BANDS // GROUPS
        self.mask_vector = nn.Parameter(torch.randn(PSEUDO_BANDS) * 0.02)
        self.decoder_a = nn.Linear(SPATIAL, PSEUDO_BANDS)
        self.decoder_e = nn.Linear(SPECTRAL, width)
        self.spectral_head = (
            nn.Linear(SPECTRAL, width) if options.spectral_weight else None
        )

    def encode(
        self, encoder: Encode, spectra: Tensor, masked: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Encode with some pixels hidden, ``masked`` of shape ``(batch, row, col)``.

        They are replaced before both embeddings, so that nothing of a hidden spectrum
        reaches any token.
        """
        hidden = torch.where(masked[:, None], self.mask_vector[:, None, None], spectra)
        return encoder(hidden)

    def forward(self, encoder: Encode, spectra: Tensor) -> Tensor:
        """Return the loss of windows ``(batch, 128, row, col)``, masks drawn anew."""
        options = self._options
        spectra = spectra.clamp(-CLIP, CLIP)
        batch, _, rows, cols = spectra.shape
        draw = torch.rand(batch, rows, cols)  # on the CPU: the same on every device
        masked = (draw < options.masked).to(spectra.device)
        a, e = (t.float() for t in self.encode(encoder, spectra, masked))
        halo = BLOCKS * REACH
        target = spectra.permute(0, 2, 3, 1)  # (batch, row, col, 128)
        inner, true = crop(masked, halo), crop(target, halo)

        predicted = self.decoder_a(a) + self.decoder_e(e).flatten(-2)
        error = (predicted - true).square().mean(dim=-1)  # (batch, row, col)
        loss = mean_where(error, inner) + options.visible_weight * mean_where(
            error, ~inner
        )
        if self.spectral_head is not None:
            near, known = hidden_neighbours(target, masked, halo)
            error = (self.spectral_head(e).flatten(-2) - near).square().mean(dim=-1)
            loss = loss + options.spectral_weight * mean_where(error, known & ~inner)
        if options.frequency_weight:
            composite = torch.where(inner[..., None], predicted, true)
            loss = loss + options.frequency_weight * frequency_loss(composite, true)
        return loss


def mean_where(values: Tensor, where: Tensor) -> Tensor:
    """Average over the pixels chosen; zero if there are none."""
    return (values * where).sum() / where.sum().clamp(min=1)


def hidden_neighbours(
    target: Tensor, masked: Tensor, halo: int
) -> tuple[Tensor, Tensor]:
    """Average the hidden pixels in the 5x5 window of every pixel inside the halo.

    Args:
        target: Shape ``(batch, row, col, 128)``.
        masked: Shape ``(batch, row, col)``.
        halo: Pixels left out on each side.

    Returns:
        The mean spectrum, and whether the window has a hidden pixel.
    """
    shares = masked[..., None].to(target.dtype)
    both = torch.cat([target * shares, shares], dim=-1).permute(0, 3, 1, 2)
    sums = F.avg_pool2d(both, SIDE, stride=1).permute(0, 2, 3, 1)
    sums = crop(sums, halo - REACH)
    share = sums[..., -1]
    return sums[..., :-1] / share.clamp(min=0.5 / SIDE**2)[..., None], share > 0


def frequency_loss(predicted: Tensor, true: Tensor) -> Tensor:
    """FDC: compare high-frequency magnitudes in space, and along the bands.

    Args:
        predicted: Shape ``(batch, row, col, band)``.
        true: Shape ``(batch, row, col, band)``.

    Returns:
        The sum of both means; zero for equal cubes.
    """
    _, rows, cols, bands = true.shape
    both = (predicted, true)
    like: dict[str, Any] = {"device": predicted.device, "dtype": predicted.dtype}
    frequency = torch.hypot(
        torch.fft.fftfreq(rows, **like)[:, None], torch.fft.rfftfreq(cols, **like)
    )  # (row, col), cycles per pixel
    weight = (frequency >= 0.25) * twice(cols).to(predicted)
    moved = [magnitude(torch.fft.rfft2(x, (rows, cols), (1, 2), "ortho")) for x in both]
    gap = (moved[0] - moved[1]).abs() * weight[..., None]
    in_space = gap.sum(dim=(1, 2)) / weight.sum().clamp(min=1)  # (batch, band)

    weight = (torch.fft.rfftfreq(bands, **like) >= 0.125) * twice(bands).to(predicted)
    moved = [magnitude(torch.fft.rfft(x, norm="ortho")) for x in both]
    along_bands = (moved[0] - moved[1]).abs() @ weight / weight.sum()
    loss: Tensor = in_space.mean() + along_bands.mean()
    return loss


def twice(size: int) -> Tensor:
    """Count how often each frequency of a real transform occurs in the full one."""
    counts = torch.full((size // 2 + 1,), 2.0)
    counts[0] = 1
    if size % 2 == 0:
        counts[-1] = 1
    return counts


def magnitude(values: Tensor) -> Tensor:
    """Return the absolute value of complex numbers, with a finite gradient at zero."""
    return (values.real.square() + values.imag.square() + 1e-12).sqrt()
