"""Classifies labelled scenes with a torch network, to measure accuracy and to draw."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hsi_runtime.model.model_file import PROBABILITIES
from hsi_runtime.walk.windows import tiles
from hsi_train.data.cutting import cut_cube
from hsi_train.data.labelled_scene import LabelledData, LabelledScene, on_ground
from hsi_train.data.roles import Role
from hsi_train.layers import LinearFit, LinearPath
from hsi_train.linear.spectra import HALO
from hsi_train.measuring.metrics import Scored
from hsi_train.method import BaseMethod, Problem

TILE = 64  # outputs on a side: a good use of a CPU's cache for all methods


@dataclass(frozen=True)
class Scorer:
    """A network that classifies labelled scenes.

    Attributes:
        network: Maps a cube in stored units to scores.
        fill: What stands for a missing value, shape ``(band,)``.
        halo: Context of an output, pixels.
        device: Where the network lives.
    """

    network: nn.Module
    fill: NDArray[np.float64]
    halo: int
    device: torch.device

    @classmethod
    def of_method(cls, method: BaseMethod, device: torch.device) -> Self:
        """Score with all that a method says, its linear path included."""
        return cls(method.classifier, method.problem.fill, method.halo, device)

    @classmethod
    def of_linear(cls, fit: LinearFit, problem: Problem, device: torch.device) -> Self:
        """Score with linear discriminants alone."""
        path = LinearPath(fit, problem.band_mean, problem.band_std, HALO)
        return cls(path.to(device).eval(), problem.fill, HALO, device)

    @torch.inference_mode()
    def score(self, data: LabelledData, role: Role) -> Scored:
        """Score the pixels of one role, scene by scene.

        The network computes in evaluation mode; the mode of each part is restored.
        """
        modes = [(module, module.training) for module in self.network.modules()]
        self.network.eval()
        scores = [np.empty((0, len(data.classes)), dtype=np.float32)]
        labels = [np.empty(0, dtype=np.int16)]
        places = [np.empty((0, 3), dtype=np.intp)]
        for index, scene in enumerate(data.scenes):
            requested = scene.roles == role
            for rows, cols, cube in cut_tiles(scene, requested, self.fill, self.halo):
                inside = requested[rows, cols]
                result = self.network(cube.to(self.device))[0].float().cpu().numpy()
                scores.append(result[:, inside].T)  # (pixel, class)
                labels.append(scene.classes[rows, cols][inside])
                corner = rows.start, cols.start
                places.append(np.insert(np.argwhere(inside) + corner, 0, index, axis=1))
        for module, training in modes:
            module.training = training
        return Scored(
            np.concatenate(scores),
            np.concatenate(labels),
            on_ground(data.scenes, np.concatenate(places)),
        )

    @torch.inference_mode()
    def classes(
        self, scene: LabelledScene, requested: NDArray[np.bool_]
    ) -> NDArray[np.int16]:
        """Classify the requested pixels of a scene; the network is in evaluation mode.

        Args:
            scene: The scene.
            requested: Pixels of interest, shape ``(row, col)``.

        Returns:
            Class index, shape ``(row, col)``; -1 in tiles without a requested pixel.
        """
        out = np.full(requested.shape, -1, dtype=np.int16)
        for rows, cols, cube in cut_tiles(scene, requested, self.fill, self.halo):
            scores = self.network(cube.to(self.device))[0]
            out[rows, cols] = scores.argmax(dim=0).cpu().numpy()
        return out

    def pixels_by_class(self, data: LabelledData) -> NDArray[np.int64]:
        """Map all valid pixels; count those of each class, shape ``(class,)``."""
        total = np.zeros(len(data.classes), dtype=np.int64)
        for scene in data.scenes:
            result = self.classes(scene, scene.valid)
            total += np.bincount(result[scene.valid], minlength=len(total))
        return total


@torch.inference_mode()
def class_and_confidence(
    method: BaseMethod,
    scene: LabelledScene,
    requested: NDArray[np.bool_],
    device: torch.device,
) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """Classify the requested pixels of a scene as the exported model will.

    Args:
        method: In evaluation mode.
        scene: The scene.
        requested: Pixels of interest, shape ``(row, col)``.
        device: Where the method lives.

    Returns:
        Class index and its probability, shape ``(row, col)``; -1 and NaN in tiles
        without a requested pixel.
    """
    graph, index = method.inference_graph().eval(), method.outputs.index(PROBABILITIES)
    classes = np.full(requested.shape, -1, dtype=np.int16)
    confidence = np.full(requested.shape, np.nan, dtype=np.float32)
    for rows, cols, cube in cut_tiles(
        scene, requested, method.problem.fill, method.halo
    ):
        highest, best = graph(cube.to(device))[index][0].max(dim=0)
        classes[rows, cols] = best.cpu().numpy()
        confidence[rows, cols] = highest.cpu().numpy()
    return classes, confidence


@torch.inference_mode()
def output_maps(
    method: BaseMethod,
    name: str,
    scene: LabelledScene,
    requested: NDArray[np.bool_],
    device: torch.device,
) -> NDArray[np.float32]:
    """Compute one of a method's outputs for the requested pixels of a scene.

    Args:
        method: In evaluation mode.
        name: Name of the output, one of ``method.outputs``.
        scene: The scene.
        requested: Pixels of interest, shape ``(row, col)``.
        device: Where the method lives.

    Returns:
        Shape ``(class, row, col)``; NaN in tiles without a requested pixel.
    """
    graph, index = method.inference_graph().eval(), method.outputs.index(name)
    classes = len(method.problem.class_counts)
    out = np.full((classes, *requested.shape), np.nan, dtype=np.float32)
    for rows, cols, cube in cut_tiles(
        scene, requested, method.problem.fill, method.halo
    ):
        out[:, rows, cols] = graph(cube.to(device))[index][0].cpu().numpy()
    return out


def count_tiles(requested: NDArray[np.bool_]) -> int:
    """Count the tiles with a requested pixel."""
    height, width = requested.shape
    return sum(
        bool(requested[top:bottom, left:right].any())
        for top, bottom in tiles((0, height), TILE)
        for left, right in tiles((0, width), TILE)
    )


def cut_tiles(
    scene: LabelledScene,
    requested: NDArray[np.bool_],
    fill: NDArray[np.float64],
    halo: int,
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Cut tiles with a requested pixel: their rows, columns and cube, halo included."""
    height, width = requested.shape
    filler = fill.astype(np.float32)[:, None, None]
    for top, bottom in tiles((0, height), TILE):
        for left, right in tiles((0, width), TILE):
            if not requested[top:bottom, left:right].any():
                continue
            cube = cut_cube(
                scene,
                scene.valid,
                filler,
                (top - halo, bottom + halo),
                (left - halo, right + halo),
            )
            yield slice(top, bottom), slice(left, right), torch.from_numpy(cube)[None]
