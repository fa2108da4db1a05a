"""From which size of scene on does OpenVINO pay, its start included?

    python benchmarks/cpu_engines.py
    python benchmarks/cpu_engines.py --method s2vnet --rounds 5

Trains by hsi-train --quick on a simulated scene of 200 bands (in --folder, once), and
maps two larger ones (uint16, pixel-interleaved GeoTIFF) by processes of hsi-run in
turns, with onnxruntime (cpu) and with OpenVINO, on all cores. Half precision is a row
of its own where the export proved bfloat16. The processor seconds of a process count,
so the ratios hold on a busy machine: how many times as many onnxruntime takes, median
and range of the rounds. *engine alone* is what --device auto measures, and acts on from
1.2 on.
"""

import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import code_digest
import common

from hsi_runtime.engines import choosing
from hsi_runtime.engines.opening import best_tile, open_backend
from hsi_runtime.machine import engine_threads
from hsi_runtime.model.model_file import ModelFile, read_model
from hsi_train.simulate import SceneSpec, band_centres, write_scene

BANDS = 200
LABELLED, SIDES = 240, (600, 1200)
QUICK = ("mf2cnet", "s2former", "s2vnet", "s2amsnet")


def command(package: str, *given: object) -> list[str]:
    """Return the command of a package: hsi-run, hsi-train or hsi-export."""
    start = f"from {package}.cli import main; main()"
    return [sys.executable, "-c", start, *map(str, given)]


def scene_of(folder: Path, side: int, **more: Any) -> Path:
    """Simulate a scene, if it is not there."""
    path = folder / f"{side}.tif"
    if not path.is_file():
        centres = band_centres(BANDS, 400, 2500)
        spec = SceneSpec(rows=side, cols=side, wavelengths_nm=centres)
        write_scene(spec, path, layout="tiff-pixel", **more)
    return path


def model_of(folder: Path, method: str, half: bool) -> ModelFile:
    """Train and export a method, if that was not done."""
    run, path = folder / method, folder / f"{method}{'.fp16' if half else ''}.onnx"
    if not path.is_file():
        labels = folder / "labels.tif"
        scene = scene_of(folder, LABELLED, truth=labels)
        if not (run / "metrics.json").is_file():
            given = "--scene", scene, "--labels", labels, "--quick", "-o", run, "-q"
            subprocess.run(command("hsi_train", method, *given), check=True)
        more = ["--fp16"] if half else []
        export = command("hsi_export", run, "-o", path, "-q", *more)
        subprocess.run(export, check=True)
    return read_model(path)


def processor_seconds(scene: Path, model: Path, device: str, output: Path) -> float:
    """Map a scene in a process of its own; return what it took of the cores."""
    given = scene, "-m", model, "--device", device, "-o", output
    process = subprocess.Popen(
        command("hsi_runtime", *given, "--overwrite", "--no-resume", "-q"),
        stdout=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"hsi-run --device {device} ended with {status}.")
    return used.ru_utime + used.ru_stime


def engines_alone(model: ModelFile) -> float:
    """Measure how many times as fast as onnxruntime OpenVINO is, as auto does."""
    engines = {device: open_backend(model, device) for device in ("cpu", "openvino")}
    side = best_tile(model.document, "cpu")
    rates = choosing._measured(model, side, engine_threads(None), engines)
    return round(rates["openvino"] / rates["cpu"], 2)


def measure(folder: Path, model: ModelFile, rounds: int) -> dict[str, Any]:
    """Compare the engines alone, and whole runs of each size."""
    row: dict[str, Any] = {"engine_alone": engines_alone(model)}
    for side in SIDES:
        scene = scene_of(folder, side)
        seconds: dict[str, list[float]] = {"cpu": [], "openvino": []}
        for _ in range(rounds):
            for device, taken in seconds.items():
                output = folder / f"{device}.tif"
                taken.append(processor_seconds(scene, model.path, device, output))
        pairs = zip(seconds["cpu"], seconds["openvino"], strict=True)
        ratios = sorted(cpu / openvino for cpu, openvino in pairs)
        row[f"{side * side:,} pixels"] = {
            **{
                f"{device}_seconds": round(statistics.median(taken), 2)
                for device, taken in seconds.items()
            },
            "ratio": round(statistics.median(ratios), 2),
            "range": [round(ratios[0], 2), round(ratios[-1], 2)],
        }
    return row


@click.command()
@click.option("--method", "methods", multiple=True, default=QUICK)
@click.option("--rounds", default=3)
@click.option("--folder", type=click.Path(path_type=Path), default="build/cpu_engines")
def main(methods: tuple[str, ...], rounds: int, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Any] = {"bands": BANDS, "rounds": rounds}
    for name in methods:
        for half in (False, True):
            model = model_of(folder, name, half)
            if half and not model.proved_in_bfloat16:
                continue
            kind = f"{name}{', half precision' if half else ''}"
            figures[kind] = measure(folder, model, rounds)
            print(f"{kind}: {figures[kind]}", flush=True)
    common.report("cpu_engines", figures, code_digest.of_running(*methods))


if __name__ == "__main__":
    main()
