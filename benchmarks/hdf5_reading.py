"""Is HDF5 read as fast as h5py reads it, and is memory flat, whatever the size?

    python benchmarks/hdf5_reading.py               0.5 and 8 GB: 12 GB of disk
    python benchmarks/hdf5_reading.py --sizes 0.3

Writes a NEON file of each size (426 bands, int16, deflate; a strip of a simulated
scene over and over). The first is read in turns by a scene, strip by strip as hsi-run
does, and by h5py in whole chunks. Each is mapped within --max-memory 1G, and so is a
DESIS product of that size, whose GeoTIFF holds all 235 bands of a pixel side by side.
"""

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import code_digest
import common
import h5py
import numpy as np

from hsi_runtime.scenes.opening import open_scene
from hsi_train.simulate import simulate_window
from hsi_train.simulate.products import desis, generator, neon

COLS, STRIP = 512, 128
CUBE = f"{neon.SITE}/Reflectance/Reflectance_Data"
ROUNDS = 3


def write_neon(spec: Any, path: Path) -> generator.Writer:
    writer = neon.NeonWriter(spec, path)
    writer.file[f"{neon.SITE}/Reflectance"].attrs.clear()  # all bands are used
    return writer


def write_desis(spec: Any, path: Path) -> generator.Writer:
    path.mkdir()
    return desis.DesisWriter(spec, path)


WRITERS: dict[str, Callable[[Any, Path], generator.Writer]] = {
    "neon": write_neon,
    "desis": write_desis,
}


def write(product: str, path: Path, gigabytes: float) -> None:
    one = generator.product_spec(product, rows=STRIP, cols=COLS)
    strip_bytes = 2 * len(one.wavelengths_nm) * COLS * STRIP
    strips = max(round(gigabytes * 1e9 / strip_bytes), 1)
    cube, _, _ = simulate_window(one, 0, STRIP)
    spec = generator.product_spec(product, rows=strips * STRIP, cols=COLS)
    with contextlib.closing(WRITERS[product](spec, path)) as writer:
        writer.write(cube, 0)
        if isinstance(writer, neon.NeonWriter):
            repeat(writer.file[CUBE].id, strips)
            return
        for number in range(1, strips):
            writer.write(cube, number * STRIP)


def repeat(cube: Any, strips: int) -> None:
    """Copy the compressed chunks of the first strip to all others."""
    for number in range(cube.get_num_chunks()):
        (row, *rest) = cube.get_chunk_info(number).chunk_offset
        if row >= STRIP:
            break
        mask, chunk = cube.read_direct_chunk((row, *rest))
        for strip in range(1, strips):
            cube.write_direct_chunk((row + strip * STRIP, *rest), chunk, mask)


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
        cube = file[CUBE]
        out = np.empty((neon.CHUNK[0], *cube.shape[1:]), cube.dtype)
        for row in range(0, len(cube), len(out)):
            cube.read_direct(out, np.s_[row : row + len(out)])
            size += out.nbytes
    return size / (time.perf_counter() - started)


def peak(path: Path, model: Path, max_memory: str) -> dict[str, Any]:
    command = [
        str(Path(sys.executable).with_name("hsi-run")),
        *(str(path), "-m", str(model), "-o", f"{path}.map.tif"),
        *("--json", "-q", "--max-memory", max_memory),
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result = json.loads(done.stdout)
    return {
        "peak_memory_bytes": result["peak_memory_bytes"],
        "seconds": {k: round(v, 1) for k, v in result["seconds"].items()},
    }


def model_of(folder: Path, product: str) -> Path:
    wavelengths = generator.product_spec(product, rows=1, cols=1).wavelengths_nm
    place = folder / f"of-{product}"
    place.mkdir()
    ends = wavelengths[0], wavelengths[-1]
    return common.make_model(place, "lda", len(wavelengths), 10, *ends).path


def speeds(path: Path) -> dict[str, Any]:
    pairs = [(read_scene(path), read_h5py(path)) for _ in range(ROUNDS)]
    ours, theirs = (max(column) for column in zip(*pairs, strict=True))
    return {
        "scene_mb_per_s": round(ours / 1e6),
        "h5py_mb_per_s": round(theirs / 1e6),
        "scene_over_h5py": round(ours / theirs, 2),
    }


@click.command()
@click.option("--sizes", default="0.5,8", help="Gigabytes, separated by commas.")
@click.option("--max-memory", default="1G")
@click.option("--scratch", type=click.Path(path_type=Path, exists=True))
@click.option("--save/--no-save", default=True, help="Keep the figures.")
def main(sizes: str, max_memory: str, scratch: Path | None, save: bool) -> None:
    figures: dict[str, Any] = {}
    reading: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=scratch) as temporary:
        folder = Path(temporary)
        for product in WRITERS:
            model = model_of(folder, product)
            for size in sizes.split(","):
                path = folder / f"{product}_{size}"
                write(product, path, float(size))
                if product == "neon" and not reading:
                    reading = speeds(path)
                figures[f"{product}, {size} GB"] = peak(path, model, max_memory)
                print(figures, flush=True)
                (shutil.rmtree if path.is_dir() else Path.unlink)(path)
    if save:
        code = code_digest.of("hsi_runtime.scenes.opening")
        common.report("hdf5_reading", reading | figures, code)


if __name__ == "__main__":
    main()
