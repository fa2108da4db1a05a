"""Classifies labelled scenes with a torch network, to measure accuracy and to draw."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hsi_runtime.model.model_file import PROBABILITIES
from hsi_runtime.walk.windows import tiles
from hsi_train.data.labelled_scene import LabelledData, LabelledScene
from hsi_train.data.roles import Role
from hsi_train.fitting.windows import cut_cube
from hsi_train.measuring.metrics import Confusion, Scored
from hsi_train.method import BaseMethod

TILE = 64  # outputs on a side: a good use of a CPU's cache for all methods


@torch.inference_mode()
def classify(
    network: nn.Module,
    scene: LabelledScene,
    wanted: NDArray[np.bool_],
    fill: NDArray[np.float64],
    halo: int,
    device: torch.device,
) -> NDArray[np.int16]:
    """Classify the wanted pixels of a scene; others may stay -1.

    Args:
        network: Maps a cube in stored units to scores, in evaluation mode.
        scene: The scene.
        wanted: Pixels of interest, shape ``(row, col)``.
        fill: What stands for a missing value, shape ``(band,)``.
        halo: Context of an output, pixels.
        device: Where the network lives.

    Returns:
        Class index, shape ``(row, col)``; -1 in tiles without a wanted pixel.
    """
    out = np.full(wanted.shape, -1, dtype=np.int16)
    for rows, cols, cube in _tiles(scene, wanted, fill, halo):
        out[rows, cols] = network(cube.to(device))[0].argmax(dim=0).cpu().numpy()
    return out


def mapped_pixels(
    network: nn.Module,
    data: LabelledData,
    fill: NDArray[np.float64],
    halo: int,
    device: torch.device,
) -> NDArray[np.int64]:
    """Map all valid pixels of the scenes; count those of each class, ``(class,)``."""
    total = np.zeros(len(data.classes), dtype=np.int64)
    for scene in data.scenes:
        found = classify(network, scene, scene.valid, fill, halo, device)
        total += np.bincount(found[scene.valid], minlength=len(total))
    return total


@torch.inference_mode()
def class_and_confidence(
    method: BaseMethod,
    scene: LabelledScene,
    wanted: NDArray[np.bool_],
    fill: NDArray[np.float64],
    device: torch.device,
) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """Classify the wanted pixels of a scene as the exported model will.

    Args:
        method: In evaluation mode.
        scene: The scene.
        wanted: Pixels of interest, shape ``(row, col)``.
        fill: What stands for a missing value, shape ``(band,)``.
        device: Where the method lives.

    Returns:
        Class index and its probability, shape ``(row, col)``; -1 and NaN in tiles
        without a wanted pixel.
    """
    graph, index = method.inference_graph().eval(), method.outputs.index(PROBABILITIES)
    classes = np.full(wanted.shape, -1, dtype=np.int16)
    confidence = np.full(wanted.shape, np.nan, dtype=np.float32)
    for rows, cols, cube in _tiles(scene, wanted, fill, method.halo):
        highest, found = graph(cube.to(device))[index][0].max(dim=0)
        classes[rows, cols] = found.cpu().numpy()
        confidence[rows, cols] = highest.cpu().numpy()
    return classes, confidence


@torch.inference_mode()
def output_maps(
    method: BaseMethod,
    name: str,
    scene: LabelledScene,
    wanted: NDArray[np.bool_],
    fill: NDArray[np.float64],
    device: torch.device,
) -> NDArray[np.float32]:
    """Compute one of a method's outputs for the wanted pixels of a scene.

    Args:
        method: In evaluation mode.
        name: Of the output, one of ``method.outputs``.
        scene: The scene.
        wanted: Pixels of interest, shape ``(row, col)``.
        fill: What stands for a missing value, shape ``(band,)``.
        device: Where the method lives.

    Returns:
        Shape ``(class, row, col)``; NaN in tiles without a wanted pixel.
    """
    graph, index = method.inference_graph().eval(), method.outputs.index(name)
    classes = len(method.problem.class_counts)
    out = np.full((classes, *wanted.shape), np.nan, dtype=np.float32)
    for rows, cols, cube in _tiles(scene, wanted, fill, method.halo):
        out[:, rows, cols] = graph(cube.to(device))[index][0].cpu().numpy()
    return out


def _tiles(
    scene: LabelledScene,
    wanted: NDArray[np.bool_],
    fill: NDArray[np.float64],
    halo: int,
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Cut tiles with a wanted pixel: their rows, columns and cube, halo included."""
    height, width = wanted.shape
    filler = fill.astype(np.float32)[:, None, None]
    for top, bottom in tiles((0, height), TILE):
        for left, right in tiles((0, width), TILE):
            if not wanted[top:bottom, left:right].any():
                continue
            cube = cut_cube(
                scene,
                scene.valid,
                filler,
                (top - halo, bottom + halo),
                (left - halo, right + halo),
            )
            yield slice(top, bottom), slice(left, right), torch.from_numpy(cube)[None]


@torch.inference_mode()
def score(
    network: nn.Module,
    scenes: list[LabelledScene],
    role: Role,
    fill: NDArray[np.float64],
    halo: int,
    classes: int,
    device: torch.device,
) -> Scored:
    """Score the pixels of one role, scene by scene; the network's mode is restored."""
    was_training = network.training
    network.eval()
    scores = [np.empty((0, classes), dtype=np.float32)]
    labels = [np.empty(0, dtype=np.int16)]
    for scene in scenes:
        wanted = scene.roles == role
        for rows, cols, cube in _tiles(scene, wanted, fill, halo):
            inside = wanted[rows, cols]
            found = network(cube.to(device))[0].float().cpu().numpy()
            scores.append(found[:, inside].T)  # (pixel, class)
            labels.append(scene.classes[rows, cols][inside])
    network.train(was_training)
    return Scored(np.concatenate(scores), np.concatenate(labels))


def evaluate(
    network: nn.Module,
    scenes: list[LabelledScene],
    role: Role,
    fill: NDArray[np.float64],
    halo: int,
    classes: int,
    device: torch.device,
) -> Confusion:
    """Confusion matrix over the pixels of one role."""
    found = score(network, scenes, role, fill, halo, classes, device)
    return found.confusion()
