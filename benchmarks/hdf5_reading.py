"""Is HDF5 read as fast as h5py reads it, and is memory flat, whatever the size?

    python benchmarks/hdf5_reading.py --sizes 0.3,2

Writes a NEON file of each size (426 bands, int16, deflate; a strip of a simulated
scene over and over), reads it in turns by a scene, strip by strip as hsi-run does, and
by h5py in whole chunks, and maps it within --max-memory 1G. Prints JSON.
"""

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import common
import h5py
import numpy as np

from hsi_runtime.scenes.opening import open_scene
from hsi_train.simulate import simulate_window
from hsi_train.simulate.products import neon
from hsi_train.simulate.products.generator import product_spec

COLS, STRIP = 512, 128
ROUNDS = 3


def write(path: Path, gigabytes: float) -> None:
    pixel_bytes = 2 * neon.BANDS
    strips = max(round(gigabytes * 1e9 / (pixel_bytes * COLS * STRIP)), 1)
    one = product_spec("neon", rows=STRIP, cols=COLS)
    cube, _, _ = simulate_window(one, 0, STRIP)
    spec = product_spec("neon", rows=strips * STRIP, cols=COLS)
    with contextlib.closing(neon.NeonWriter(spec, path)) as writer:
        writer.file[f"{neon.SITE}/Reflectance"].attrs.clear()  # all bands are used
        for number in range(strips):
            writer.write(cube, number * STRIP)


def read_scene(path: Path) -> float:
    """Return bytes per second of reading all bands by a scene."""
    started, size = time.perf_counter(), 0
    with contextlib.closing(open_scene(path)) as scene:
        info = scene.info
        rows = neon.CHUNK[0]
        shape = rows, info.cols, info.bands  # as the file's axes lie
        out = np.empty(shape, info.dtype).transpose(2, 0, 1)
        for row in range(0, info.rows, rows):
            bands = np.arange(info.bands)
            size += scene.read((row, row + rows), (0, info.cols), bands, out).nbytes
    return size / (time.perf_counter() - started)


def read_h5py(path: Path) -> float:
    """Return bytes per second of h5py, which reads whole chunks into place."""
    started, size = time.perf_counter(), 0
    with h5py.File(path) as file:
        cube = file[f"{neon.SITE}/Reflectance/Reflectance_Data"]
        out = np.empty((neon.CHUNK[0], *cube.shape[1:]), cube.dtype)
        for row in range(0, len(cube), len(out)):
            cube.read_direct(out, np.s_[row : row + len(out)])
            size += out.nbytes
    return size / (time.perf_counter() - started)


def peak(path: Path, model: Path, max_memory: str) -> dict[str, Any]:
    command = [
        str(Path(sys.executable).with_name("hsi-run")),
        *(str(path), "-m", str(model), "-o", str(path.with_suffix(".tif"))),
        *("--json", "-q", "--max-memory", max_memory),
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result = json.loads(done.stdout)
    return {
        "peak_memory_bytes": result["peak_memory_bytes"],
        "seconds": {k: round(v, 1) for k, v in result["seconds"].items()},
    }


@click.command()
@click.option("--sizes", default="0.3,2", help="Gigabytes, separated by commas.")
@click.option("--max-memory", default="1G")
@click.option("--scratch", type=click.Path(path_type=Path, exists=True))
def main(sizes: str, max_memory: str, scratch: Path | None) -> None:
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=scratch) as temporary:
        folder = Path(temporary)
        first, *_, last = product_spec("neon", rows=1, cols=1).wavelengths_nm
        model = common.make_model(folder, "lda", neon.BANDS, 10, first, last)
        for size in sizes.split(","):
            path = folder / f"scene_{size}.h5"
            write(path, float(size))
            speeds = [(read_scene(path), read_h5py(path)) for _ in range(ROUNDS)]
            ours, theirs = (max(column) for column in zip(*speeds, strict=True))
            figures[f"{size} GB"] = {
                "file_bytes": path.stat().st_size,
                "scene_mb_per_s": round(ours / 1e6),
                "h5py_mb_per_s": round(theirs / 1e6),
                "scene_over_h5py": round(ours / theirs, 2),
                **peak(path, model.path, max_memory),
            }
            path.unlink()
    click.echo(json.dumps({"machine": common.machine(), **figures}, indent=1))


if __name__ == "__main__":
    main()
