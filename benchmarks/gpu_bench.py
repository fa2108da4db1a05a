"""What the sections of `gpu.py` share: sizes, devices, models, figures on the disk."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import torch

from hsi_runtime.engines.backend import GPU_DEVICES
from hsi_runtime.engines.nvidia import onnxruntime_cuda, tensorrt_gpu
from hsi_runtime.model.model_file import ModelFile, read_model
from hsi_train import recipe

LINEAR = "lda"  # is fitted, not trained
PRECISIONS = ("fp32", "fp16")
WEBGPU = "ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER"
Figures = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        side: Side of the scene that is trained on, px.
        samples: Training pixels of each class.
        epochs: Epochs of a training.
        timed_epochs: Epochs of a training whose steps are timed.
        tiles: Sides of windows, px.
        rounds: Rounds of a measurement.
        round_s: Seconds of a round.
        matrix: Side of the matrices whose products are timed.
        flight: Lines and columns of the flight that is followed.
        energy_s: Seconds for which energy is measured.
    """

    side: int
    samples: int
    epochs: int
    timed_epochs: int
    tiles: tuple[int, ...]
    rounds: int
    round_s: float
    matrix: int
    flight: tuple[int, int]
    energy_s: float


FULL = Sizes(
    side=160,
    samples=20,
    epochs=5,
    timed_epochs=20,
    tiles=(128, 512),
    rounds=3,
    round_s=0.4,
    matrix=8192,
    flight=(2000, 640),
    energy_s=4.0,
)
DRY = Sizes(
    side=64,
    samples=4,
    epochs=4,  # after fewer, ties between classes fail the parity in half precision
    timed_epochs=8,
    tiles=(8, 16),
    rounds=1,
    round_s=0.0,
    matrix=64,
    flight=(240, 16),
    energy_s=0.3,
)


@dataclass(frozen=True)
class Bench:
    """What all sections share.

    Attributes:
        folder: Where models and figures are kept.
        methods: Methods to measure.
        bands: Bands of the scenes.
        dry: True for a dry run.
    """

    folder: Path
    methods: tuple[str, ...]
    bands: int
    dry: bool

    @property
    def sizes(self) -> Sizes:
        """How much is measured."""
        return DRY if self.dry else FULL

    @cached_property
    def devices(self) -> list[str]:
        """Devices to measure: those of the GPU, or what stands for them."""
        if self.dry:
            return ["cpu", "webgpu"] if os.environ.get(WEBGPU) else ["cpu"]
        return [device for device in GPU_DEVICES if installed()[device]]

    def model(self, method: str, precision: str) -> ModelFile:
        """Read a model that the section `models` made."""
        return read_model(self.folder / f"{method}.{precision}.onnx")

    def engines(self) -> Iterator[tuple[str, str, str]]:
        """Go through method, precision and device; quick starts come first."""
        for device in reversed(self.devices):
            yield from product(self.methods, PRECISIONS, [device])

    def recipe(self, method: str, epochs: int) -> recipe.Recipe:
        """Return how a method is trained.

        The linear path, on which so short a training might not improve, is left out:
        the network would not be in the file.
        """
        fit = {"epochs": epochs, "linear_path": False}
        files = {"scenes": ["scene.tif"], "labels": ["labels.tif"]}
        paths = {k: [str(self.folder / n) for n in v] for k, v in files.items()}
        return recipe.parse(
            {
                "method": method,
                "data": paths,
                "split": {"mode": "per-class", "samples_per_class": self.sizes.samples},
                **({} if method == LINEAR else {"fit": fit}),
            }
        )


def installed() -> dict[str, bool]:
    """Return which engines of the GPU are installed."""
    return {
        "tensorrt": tensorrt_gpu.is_installed(),
        "cuda": onnxruntime_cuda.is_installed(),
    }


def training_device(bench: Bench) -> str:
    """Return where networks are trained."""
    return "cpu" if bench.dry or not torch.cuda.is_available() else "cuda"


def kept(bench: Bench, name: str) -> Figures:
    """Read what a section has measured."""
    path = bench.folder / f"{name}.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return {key: value for line in lines for key, value in json.loads(line).items()}
