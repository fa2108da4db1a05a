"""How long does hsi-run take from the command to the map, beyond the network itself?

    python benchmarks/end_to_end.py

Simulated scenes of 200 bands (uint16, tiled GeoTIFF, in the file cache if they fit) and
a model of each method with random weights and 16 classes, on all cores. Every run is a
process of its own, and the methods take turns. Sizes are in gigapixel-bands: 10^9
values of two bytes. Finished runs are kept in `--folder` and not repeated while the
model and the code are the same.
"""

import hashlib
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import code_digest
import common

from hsi_runtime.model.model_file import ModelFile, read_model
from hsi_train.methods import names
from hsi_train.simulate import SceneSpec, band_centres, write_scene

BANDS, CLASSES = 200, 16
QUICK_SIZE = 0.01
BAR = 1.15  # wall time over inference, on a scene that is bound by computing

Run = dict[str, Any]


def run(scene: Path, model: ModelFile, folder: Path) -> Run:
    """Map a scene in a process of its own; return the wall time and its report."""
    started = time.monotonic()
    done = subprocess.run(
        [
            *(str(Path(sys.executable).with_name("hsi-run")), str(scene)),
            *("-m", str(model.path), "-o", str(folder / "map.tif")),
            *("--overwrite", "--no-resume", "--json", "-q"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    wall = time.monotonic() - started
    done.check_returncode()
    result = json.loads(done.stdout)
    return {
        "wall": wall,
        **{k: result["seconds"][k] for k in ("read", "infer", "write")},
        "wall_over_infer": wall / result["seconds"]["infer"],
        "pixels_per_second": result["rows"] * result["cols"] / wall,
        "peak_memory_bytes": result["peak_memory_bytes"],
    }


def key_of(method: str, model: ModelFile, size: float, number: int) -> str:
    """Name a run by all that decides it: scene, model, code, and its number."""
    code = code_digest.of_running(method)["sha256"]
    parts = f"{method} {model.sha256} {size:g} {number} {code}"
    return hashlib.sha256(parts.encode()).hexdigest()


def measure(
    sizes: Sequence[float], methods: Sequence[str], rounds: int, folder: Path
) -> list[Run]:
    """Run what is missing; return all runs, finished ones before included."""
    models = {}
    for name in methods:
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        if (place / "model.onnx").is_file():
            models[name] = read_model(place / "model.onnx")
        else:
            models[name] = common.make_model(place, name, BANDS, CLASSES, 400, 2500)
    journal = folder / "runs.jsonl"
    lines = journal.read_text().splitlines() if journal.is_file() else []
    finished = {result["key"]: result for result in map(json.loads, lines)}
    keys = []
    for size in sizes:
        scene = folder / f"scene-{size:g}.tif"
        for number in range(rounds):
            for name in methods[:: -1 if number % 2 else 1]:
                key = key_of(name, models[name], size, number)
                keys.append(key)
                if key in finished:
                    continue
                prepare(scene, size)
                result = {"key": key, "size": size, "method": name}
                result |= run(scene, models[name], folder)
                finished[key] = result
                with journal.open("a") as file:
                    file.write(json.dumps(result) + "\n")
                print(f"{size:g} {name}: {result['wall']:.2f} s", flush=True)
        scene.unlink(missing_ok=True)
    return [finished[key] for key in keys]


def prepare(scene: Path, size: float) -> None:
    """Simulate a scene where it is not there yet, and bring it into the file cache."""
    if not scene.is_file():
        side = math.isqrt(round(size * 1e9 / BANDS))
        spec = SceneSpec(rows=side, cols=side, wavelengths_nm=band_centres(BANDS))
        write_scene(spec, scene)
    with scene.open("rb") as file:
        while file.read(2**23):
            pass


def summary(runs: Sequence[Run]) -> list[Run]:
    """Sum up the runs of each size and method: medians, ranges of what is compared."""
    groups: dict[tuple[float, str], list[Run]] = {}
    for result in runs:
        groups.setdefault((result["size"], result["method"]), []).append(result)

    def middle(values: Sequence[float]) -> float:
        return float(f"{statistics.median(values):.4g}")

    rows = []
    for (size, method), members in groups.items():
        ratios = [m["wall_over_infer"] for m in members]
        walls = [m["wall"] for m in members]
        rows.append(
            {
                "gigapixel_bands": size,
                "method": method,
                "runs": len(members),
                "wall_seconds": middle(walls),
                "wall_seconds_range": [round(min(walls), 2), round(max(walls), 2)],
                **{
                    f"{k}_seconds": middle([m[k] for m in members])
                    for k in ("read", "infer", "write")
                },
                "wall_over_infer": round(statistics.median(ratios), 3),
                "wall_over_infer_range": [round(min(ratios), 3), round(max(ratios), 3)],
                "pixels_per_second": round(
                    statistics.median(m["pixels_per_second"] for m in members)
                ),
                "peak_memory_bytes": max(m["peak_memory_bytes"] for m in members),
            }
        )
    return rows


def markdown(rows: Sequence[Run]) -> str:
    """Lay out the summary: what a run takes, and where its wall time goes."""
    head = [
        *("Gpx x bands", "method", "wall s (range)", "read", "infer", "write"),
        *(f"wall / infer, at most {BAR} (range)", "pixels/s", "peak MB"),
    ]
    lines = [
        "Medians in seconds. Reading and writing run beside inference. Inference is",
        "the engine and the cutting of its windows, as in the JSON of hsi-run.",
        "",
        *common.table_head(head),
    ]
    for row in rows:
        cells = [
            f"{row['gigapixel_bands']:g}",
            row["method"],
            f"{row['wall_seconds']:.2f} ({_range(row['wall_seconds_range'])})",
            *(f"{row[f'{k}_seconds']:.2f}" for k in ("read", "infer", "write")),
            f"{row['wall_over_infer']} ({_range(row['wall_over_infer_range'])})",
            f"{row['pixels_per_second']:,}",
            f"{row['peak_memory_bytes'] / 1e6:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + f"\n\n{common.machine_text()}\n"


def _range(values: Sequence[float]) -> str:
    return f"{values[0]}-{values[1]}"


@click.command()
@click.option("--size", "sizes", multiple=True, type=float, default=(0.1, 1.0))
@click.option("--method", "methods", multiple=True, default=names())
@click.option("--rounds", default=3)
@click.option("--folder", type=click.Path(path_type=Path), default="build/end_to_end")
@click.option("--quick", is_flag=True, help="One small scene; only prints.")
def main(
    sizes: tuple[float, ...],
    methods: tuple[str, ...],
    rounds: int,
    folder: Path,
    quick: bool,
) -> None:
    if quick:
        sizes = (QUICK_SIZE,)
    rows = summary(measure(sizes, methods, rounds, folder))
    text = markdown(rows)
    if quick:
        print(text)
        return
    figures = {"bands": BANDS, "classes": CLASSES, "cases": rows}
    common.report("end_to_end", figures, code_digest.of_running(*methods))
    (common.RESULTS / "end_to_end.md").write_text(text)


if __name__ == "__main__":
    main()
