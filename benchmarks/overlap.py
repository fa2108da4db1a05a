"""Do reading, inference and writing overlap?

    python benchmarks/overlap.py

On two cores an engine with one thread leaves the other to the reader. A compressed,
pixel-interleaved scene is slow to read, and a network of one layer quick to compute:
with the two within a factor of three, the wall time should be near the slower stage.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import common
import numpy as np
from msgspec.structs import replace
from onnx import TensorProto, helper, numpy_helper

from hsi_export import package
from hsi_runtime.model.model_file import UNSIGNED, ModelFile, read_model
from hsi_train.simulate import SceneSpec, band_centres, write_scene


def light_model(folder: Path, bands: int) -> ModelFile:
    """Export a single 3x3 convolution under the document of a real model."""
    document = common.make_model(folder, "mf2cnet", bands, 10, 400, 2500).document
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 1e-4, (10, bands, 3, 3)).astype(np.float32)
    shape: list[str | int] = ["batch", bands, "height", "width"]
    outputs: list[str | int] = ["batch", 10, "rows", "cols"]
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["cube", "weights"], ["scores"]),
            helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
        ],
        "light",
        [helper.make_tensor_value_info("cube", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, outputs)],
        [numpy_helper.from_array(weights, "weights")],
    )
    opset = [helper.make_opsetid("", 20)]
    proto = helper.make_model(graph, opset_imports=opset, ir_version=10)
    light = replace(document, receptive_field=3, checksum=UNSIGNED)
    path = folder / "light.onnx"
    path.write_bytes(package.assemble(proto, light, 1.0))
    return read_model(path)


@click.command()
@click.option("--rows", default=3000)
@click.option("--cols", default=1500)
@click.option("--bands", default=100)
@click.option("--rounds", default=3)
def main(rows: int, cols: int, bands: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = light_model(folder, bands)
        scene = folder / "scene.tif"
        spec = SceneSpec(rows=rows, cols=cols, wavelengths_nm=band_centres(bands))
        write_scene(spec, scene, layout="tiff-pixel", compress="deflate")
        found = []
        for number in range(rounds):
            command = [
                str(Path(sys.executable).with_name("hsi-run")),
                str(scene),
                *("-m", str(model.path), "--threads", "1", "--json", "-q"),
                *("-o", str(folder / f"{number}.tif")),
            ]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            done.check_returncode()
            found.append(json.loads(done.stdout)["seconds"])
    ratios = [s["total"] / max(s["read"], s["infer"]) for s in found]
    middle = found[ratios.index(statistics.median_low(ratios))]
    common.report(
        "overlap",
        {
            "seconds": {k: round(v, 2) for k, v in middle.items()},
            "wall_over_slower_stage_median": round(statistics.median(ratios), 3),
            "range": [round(min(ratios), 3), round(max(ratios), 3)],
            "read_over_infer": round(middle["read"] / middle["infer"], 2),
        },
    )


if __name__ == "__main__":
    main()
