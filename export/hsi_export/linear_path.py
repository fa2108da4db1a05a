"""The linear path in the form that runs fastest in float32."""

import copy
from functools import reduce

import torch
from torch import Tensor, nn

from hsi_train.layers import FLAT, LinearPath


def fold_paths(graph: nn.Module) -> nn.Module:
    """Copy a graph, with the linear paths in it folded."""
    twin = copy.deepcopy(graph)
    for module in list(twin.modules()):
        for name, part in list(module.named_children()):
            if type(part) is LinearPath and part.sides:
                setattr(module, name, FoldedPath(part))
    return twin


class FoldedPath(LinearPath):
    """`LinearPath` for inference, the same function in fewer passes over the bands.

    - The deviations of the bands are part of the weights.
    - Means over the bands are products with a row of ones, because engines are slow to
      sum along the bands. That of a spectrum is one more row of the product of its
      bands.
    - Weights of brightness-free spectra get the mean 0 over the bands, as the spectra
      have, so that the rounding of a spectrum's mean does not count.
    - Products are of matrices: for a convolution, engines first reorder all bands.

    The centres are still subtracted before the products: folded too, the rounding of
    the scores would be four times as large.
    """

    rows: Tensor
    mean: Tensor
    mean_of_means: Tensor
    shape: Tensor | None
    centre: Tensor
    ones: Tensor
    least: Tensor

    def __init__(self, path: LinearPath) -> None:
        nn.Module.__init__(self)
        self.apart, self.unjudged = path.apart, path.unjudged
        self.halo, self.sides = path.halo, path.sides
        mean = path.standardise.mean[:, 0].double()
        ones = torch.full((1, len(mean)), 1 / len(mean), dtype=torch.float64)
        centre = path.brightness_free.centre[:, 0].double()
        bias = path.bias.double()
        rows, shape = [ones], None
        if path.bands_weight is not None:
            scale = path.standardise.inverse_std[:, 0, 0].double()
            rows.insert(0, path.bands_weight[:, :, 0, 0] * scale)
        if path.shape_weight is not None:
            shape = path.shape_weight[:, :, 0, 0].double()
            means = shape.mean(dim=1, keepdim=True)
            shape = shape - means
            # Nothing, unless the centre has another mean than 0.
            lost = torch.unflatten(means * centre.sum(), 0, (len(self.sides), -1))
            bias = bias - lost.sum(dim=0)[..., None]
        constants = {
            "gate": path.gate,
            "bias": bias,
            "rows": torch.cat(rows),
            "mean": mean,
            "mean_of_means": mean.mean(),
            "shape": shape,
            "centre": centre,
            "ones": ones,
            "least": path.brightness_free.least,
        }
        for name, value in constants.items():
            self.register_buffer(name, None if value is None else value.float())

    def forward(self, cube: Tensor) -> Tensor:
        """Map a cube in stored units to linear scores, without the halo.

        Shape ``(batch, band, row, col)`` to ``(batch, class, row - 2 halo, ...)``.
        """
        spectra = cube.flatten(2)  # (batch, band, pixel)
        product = self.rows @ (spectra - self.mean)
        products = [product[:, :-1]] if len(self.rows) > 1 else []
        if self.shape is not None:
            means = product[:, -1:] + self.mean_of_means
            products.append(self.shape @ self._brightness_free(spectra, means))
        stacked = torch.unflatten(reduce(torch.add, products), 2, cube.shape[2:])
        return self.averaged(stacked, self.halo)

    def _brightness_free(self, spectra: Tensor, means: Tensor) -> Tensor:
        """Do as `BrightnessFree` does with spectra whose means are known."""
        centred = spectra - means
        variance = self.ones @ (centred * centred)
        level = torch.maximum(variance + (FLAT * means).square(), self.least)
        return centred * torch.rsqrt(level) - self.centre
