"""What do the scales of MF2CNet give?

    HSI_DATA=... HSI_BENCHMARKS=... python benchmarks/mf2cnet_scales.py     1 hour

The method with one, two (the default) and three granular blocks, which see 7, 13 and 19
pixels; and with two blocks of one scale, whose three filters see all channels, in place
of groups that see 1, 3, 5 and 7 pixels. All train and are tested on the same pixels.
The column of held-out pixels is what a default may be chosen by. Each finished run is
one line, so repeat the command to continue.
"""

import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import code_digest
import common
import numpy as np
import torch
from accuracy_data import DATA_SETS, divisions
from torch import Tensor, nn
from torch.nn import functional as F

from hsi_train import recipe
from hsi_train.layers import crop_to
from hsi_train.methods import mf2cnet
from hsi_train.training import train

# Blocks, and whether their groups see several scales.
VARIANTS = {
    "7 px": (1, True),
    "13 px": (2, True),
    "13 px, one scale": (2, False),
    "19 px": (3, True),
}
DEFAULT = "13 px"
SCENES = ("enmap_potsdam", "simulated_60", "indian_pines_disjoint")
KEYS = ("data", "variant", "seed")
Row = dict[str, Any]


class OneScale(nn.Module):
    """A granular block without groups: every channel passes all filters."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.mix = nn.Sequential(
            nn.Conv3d(features, features, 1, bias=False),
            nn.BatchNorm3d(features),
            nn.ReLU(),
        )
        self.filters = nn.Sequential(
            *(
                nn.Sequential(
                    mf2cnet.DepthwiseConv3d(features),
                    nn.BatchNorm3d(features),
                    nn.ReLU(),
                )
                for _ in range(mf2cnet.GROUPS - 1)
            )
        )
        self.fuse = nn.Sequential(
            nn.Conv3d(features, features, 1, bias=False), nn.BatchNorm3d(features)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, feature, depth, row, col)`` to rows and columns less six."""
        filtered: Tensor = self.fuse(self.filters(self.mix(x)))
        return F.relu(filtered + crop_to(x, *filtered.shape[-2:]))


def run_child(content: Path, variant: str) -> None:
    """Train a variant, in a process of its own; print its figures."""
    blocks, several = VARIANTS[variant]
    mf2cnet.BLOCKS = blocks
    mf2cnet.Method.receptive_field = 1 + 2 * (mf2cnet.GROUPS - 1) * blocks
    if not several:
        mf2cnet.GranularBlock = OneScale  # type: ignore[misc, assignment]
    settings = recipe.parse(json.loads(content.read_text()))
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = train(settings, Path(folder) / "run", "cpu")
        with (Path(folder) / "run" / "history.csv").open() as file:
            history = list(csv.DictReader(file))
    chosen = history[found["best_epoch"] - 1]["validation_accuracy"] if history else ""
    kept = {key: found[key] for key in ("overall_accuracy", "average_accuracy")}
    kept |= {"parameters": found["parameters"], "seconds": found["seconds"]}
    print(json.dumps(kept | {"held_out": float(chosen or "nan")}))


def measure(data: str, variant: str, seed: int) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        division = divisions(data, range(seed, seed + 1), Path(folder))[seed]
        content = Path(folder) / "recipe.json"
        tables = {"data": division.data, "split": division.split, "seed": seed}
        content.write_text(json.dumps({"method": "mf2cnet", "rivals": "none"} | tables))
        command = [sys.executable, __file__, "--child", str(content), variant]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


def table(rows: list[Row]) -> str:
    """Average over seeds; compare with the default, seed by seed."""
    heads = ["scene", "variant", "held out", "OA", "AA"]
    heads += ["OA, less the default", "weights", "seeds"]
    lines = common.table_head(heads)
    for data in SCENES:
        by_seed = {
            (row["variant"], row["seed"]): row for row in rows if row["data"] == data
        }
        for variant in VARIANTS:
            own = {s: row for (v, s), row in by_seed.items() if v == variant}
            if not own:
                continue
            gains = [
                100 * (row["overall_accuracy"] - base["overall_accuracy"])
                for seed, row in own.items()
                if (base := by_seed.get((DEFAULT, seed)))
            ]
            shown = ""
            if variant != DEFAULT and len(gains) > 1:
                error = np.std(gains, ddof=1) / len(gains) ** 0.5
                shown = f"{np.mean(gains):+.1f} ± {error:.1f}"
            means = [
                f"{100 * np.mean([row[key] for row in own.values()]):.1f}"
                for key in ("held_out", "overall_accuracy", "average_accuracy")
            ]
            weights = next(iter(own.values()))["parameters"]
            cells = [data, variant, *means, shown, f"{weights:,}", str(len(own))]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


@click.command()
@click.option("--data", "names", multiple=True, default=SCENES)
@click.option("--seeds", default=3)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path),
    default=common.RESULTS / "mf2cnet_scales.jsonl",
)  # fmt: skip
@click.option("--child", type=(Path, click.Choice(list(VARIANTS))), hidden=True)
def main(
    names: tuple[str, ...], seeds: int, output: Path, child: tuple[Path, str] | None
) -> None:
    if child is not None:
        run_child(*child)
        return
    code = code_digest.of_training("mf2cnet")
    for seed in range(seeds):
        for data in names:
            for variant in VARIANTS if DATA_SETS[data].present else ():
                key = {"data": data, "variant": variant, "seed": seed, "code": code}
                if any(key.items() <= row.items() for row in common.read_lines(output)):
                    continue
                common.add_line(output, key | measure(data, variant, seed), KEYS)
    rows = [row for row in common.read_lines(output) if row["code"] == code]
    output.with_suffix(".md").write_text(table(rows), encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()
