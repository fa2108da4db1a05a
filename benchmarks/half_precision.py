"""Does every file and every engine give the same map as torch?

    HSI_DATA=... python benchmarks/half_precision.py --runs FOLDER

Trains each method by its shipped recipe, exports it in both precisions, and classifies
the whole scene with torch and with each file and engine. The table has the largest
difference in probability, the share of pixels with the same class, and the overall
accuracy (OA) on the test pixels. Finished trainings in FOLDER are not repeated.

float16 is computed in two ways: for the whole scene by onnxruntime on the CPU, which
rounds the weights and computes in float32; and for one window operator by operator in
true half precision. bfloat16 is OpenVINO with the half-precision file.
"""

import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import code_digest
import common
import numpy as np
import onnx
import rasterio
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

import hsi_runtime
from hsi_export import parity
from hsi_export.exporting import export
from hsi_runtime.engines import openvino_cpu
from hsi_runtime.engines.openvino_cpu import OpenvinoCpu
from hsi_runtime.errors import EngineError
from hsi_runtime.model.model_file import INPUT_NAME, PROBABILITIES
from hsi_runtime.scenes.scene import SceneInfo
from hsi_train import recipe
from hsi_train.data import loading
from hsi_train.data.roles import Role
from hsi_train.inputs import read_data
from hsi_train.method import BaseMethod
from hsi_train.methods import names
from hsi_train.run_folder import checkpoint
from hsi_train.training import train

ROUNDS = 3
SCENES = ("salinas_a", "enmap_potsdam")
RESULTS = Path(__file__).parent / "results"


class Torch:
    """The network itself, as an engine."""

    device, precision, windows_at_once = "torch", "fp32", 1

    def __init__(self, method: BaseMethod) -> None:
        self.method = method

    def predict(
        self, cube: NDArray[np.float32], outputs: Sequence[str] = (PROBABILITIES,)
    ) -> dict[str, NDArray[np.float32]]:
        return parity.reference(self.method, np.ascontiguousarray(cube))


def trained(name: str, scene: str, run: Path) -> None:
    """Train from labels alone: pre-training has no say in precision."""
    if not (run / "checkpoint.safetensors").exists():
        content = recipe.load(f"{scene}-{name}")
        content.pop("pretrain", None)
        train(recipe.parse(content), run, "cpu", overwrite=run.exists())


def measure(run: Path) -> dict[str, Any]:
    """Compare torch, the files and the engines on the scene that was trained on."""
    for label in ("fp32", "fp16"):
        export(run, run / f"{label}.onnx", overwrite=True, fp16=label == "fp16")
    kept = checkpoint.load(run)
    models = {
        "torch": hsi_runtime.Model(run / "fp32.onnx", "cpu", threads=1),
        "fp32": hsi_runtime.Model(run / "fp32.onnx", "cpu", threads=1),
        "fp16": hsi_runtime.Model(run / "fp16.onnx", "cpu", threads=1),
        "openvino_fp32": hsi_runtime.Model(run / "fp32.onnx", "openvino", threads=1),
    }
    models["torch"].backend = Torch(kept.method.eval())
    used = openvino_cpu.start(models["fp16"].file, 1).precision
    try:
        quick = OpenvinoCpu(models["fp16"].file, 1, bfloat16=True)
        models["openvino_bf16"] = hsi_runtime.Model(run / "fp16.onnx", "cpu", 1)
        models["openvino_bf16"].backend = quick
    except EngineError as error:
        print(error)
    content = recipe.parse(recipe.load(str(run / "recipe.toml")))
    scene = loading.open_any(recipe.expanded(content.data.scenes[0]))
    info: SceneInfo = scene.info
    cube = scene.read((0, info.rows), (0, info.cols), np.arange(info.bands))
    scene.close()
    test, truth = test_pixels(run, content)
    given = described(info)
    seconds: dict[str, list[float]] = {label: [] for label in models}
    answers = {}
    for _ in range(ROUNDS):  # in turns: the ratios hold on a busy machine
        for label, model in models.items():
            started = time.perf_counter()
            answers[label] = model.predict(cube, **given)
            seconds[label].append(time.perf_counter() - started)
    classes = {label: answer.classes for label, answer in answers.items()}
    chance = {label: answer.probabilities for label, answer in answers.items()}
    known = classes["torch"] != np.iinfo(classes["torch"].dtype).max
    right = {label: int((c == truth)[test].sum()) for label, c in classes.items()}
    rate = statistics.median(seconds["fp32"])

    def against(reference: str, label: str) -> dict[str, Any]:
        off = np.abs(chance[label] - chance[reference])[:, known]
        same = (classes[label] == classes[reference])[known]
        return {
            "max_difference": float(off.max()),
            "equal_classes": float(same.mean()),
            "unequal_pixels": int((~same).sum()),
            "test_pixels_right": right[label],
            "overall_accuracy": right[label] / int(test.sum()),
        }

    return {
        "trained": trained_with(content),
        "pixels": int(known.sum()),
        "test_pixels": int(test.sum()),
        "torch_overall_accuracy": right["torch"] / int(test.sum()),
        "fp32": against("torch", "fp32"),
        "fp16": against("fp32", "fp16"),
        "fp16_true_half": true_half(run, kept),
        **{
            label: against("fp32", label)
            | {"speed_over_onnxruntime": round(rate / statistics.median(times), 2)}
            for label, times in seconds.items()
            if label.startswith("openvino")
        },
        "openvino_takes_the_fp16_file_in": used,
    }


def trained_with(content: recipe.Recipe) -> dict[str, Any]:
    """Say what tells this run from others of its method."""
    fit = content.fit
    return {"seed": content.seed, "epochs": fit.epochs, "options": content.options}


def described(info: SceneInfo) -> dict[str, Any]:
    """Tell `Model.predict` of a scene what its file would."""
    return {
        "wavelengths_nm": info.wavelengths_nm,
        "fwhm_nm": info.fwhm_nm,
        "nodata": None if np.isnan(info.nodata).all() else info.nodata[0],
        "scale": None if info.scale is None else info.scale[0],
    }


def test_pixels(
    run: Path, content: recipe.Recipe
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return the mask of the test pixels, and the label code of every pixel."""
    data = read_data(content, 0)
    with rasterio.open(run / "split.tif") as file:
        test = file.read(1) == Role.TEST
    part = data.scenes[0]
    index = np.full(test.shape, -1)
    rows, cols = part.classes.shape
    index[part.row : part.row + rows, part.col : part.col + cols] = part.classes
    codes = np.array([c.code for c in data.classes])
    return test, codes[index]


def true_half(run: Path, kept: checkpoint.Checkpoint) -> dict[str, Any]:
    """Compute the stored window operator by operator, each rounded to half."""
    cube = kept.sample.astype(np.float32)[None]
    expected = parity.reference(kept.method, cube)[PROBABILITIES]
    evaluator = ReferenceEvaluator(onnx.load(run / "fp16.onnx"))
    answer: Any = evaluator.run([PROBABILITIES], {INPUT_NAME: cube})
    same = answer[0].argmax(axis=1) == expected.argmax(axis=1)
    return {
        "pixels": same.size,
        "max_difference": float(np.abs(answer[0] - expected).max()),
        "equal_classes": float(same.mean()),
        "unequal_pixels": int((~same).sum()),
    }


def table(figures: dict[str, Any]) -> str:
    """Write the rows as Markdown."""
    lines = [
        "| method, scene | pixels | fp32 to torch: max diff | equal | fp16: equal "
        "| true half: max diff | equal | OA fp32 | OA fp16 | OpenVINO fp32: max diff "
        "| equal | bf16: max diff | equal | OA bf16 "
        "| OpenVINO computes the fp16 file in |",
        "|---|" + "---:|" * 13 + "---|",
    ]
    for key, row in figures.items():
        fp32, fp16, half = row["fp32"], row["fp16"], row["fp16_true_half"]
        exact, coarse = row["openvino_fp32"], row.get("openvino_bf16")
        cells = [
            key,
            f"{row['pixels']:,}",
            f"{fp32['max_difference']:.1e}",
            share(fp32),
            share(fp16),
            f"{half['max_difference']:.1e}",
            share(half),
            accuracy(fp32),
            accuracy(fp16),
            f"{exact['max_difference']:.1e}",
            share(exact),
            f"{coarse['max_difference']:.1e}" if coarse else "",
            share(coarse) if coarse else "",
            accuracy(coarse) if coarse else "",
            {"bf16": "bf16", "fp16": "fp32"}[row["openvino_takes_the_fp16_file_in"]],
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def share(result: dict[str, Any]) -> str:
    return f"{100 * result['equal_classes']:.3f} % ({result['unequal_pixels']} px)"


def accuracy(result: dict[str, Any]) -> str:
    return f"{100 * result['overall_accuracy']:.2f}"


@click.command()
@click.option("--runs", type=click.Path(path_type=Path), default="build/half")
@click.option("--method", "methods", multiple=True, default=names())
@click.option("--scene", "scenes", multiple=True, default=SCENES)
def main(runs: Path, methods: tuple[str, ...], scenes: tuple[str, ...]) -> None:
    path = RESULTS / "half_precision.json"
    code = code_digest.of_running(*names())
    old = json.loads(path.read_text()) if path.exists() else {}
    if old.get("code") != code:  # a table is of one version
        old = {}
    rows = {f"{n} on {s}": (n, s) for s in SCENES for n in names()}
    figures = {key: old[key] for key in rows if key in old}
    for key, (name, scene) in rows.items():
        if name in methods and scene in scenes:
            run = runs / f"{scene}-{name}"
            trained(name, scene, run)
            figures[key] = measure(run)
            ordered = {key: figures[key] for key in rows if key in figures}
            common.report("half_precision", ordered, code)
            path.with_suffix(".md").write_text(table(ordered) + "\n")
    print(path.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
