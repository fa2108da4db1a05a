"""How close does reading come to a plain sequential read of the same file?

    python benchmarks/reading.py --folder FOLDER_WITH_3_GB_FREE

Strips as the pipeline reads them, against `read` of the same bytes, in turns in one
process with a warm cache, so that the disk has no say in the ratio.
"""

import statistics
import tempfile
import time
from pathlib import Path

import click
import common
import numpy as np

from hsi_runtime.scenes.opening import open_scene
from hsi_runtime.walk import windows
from hsi_runtime.walk.strips import read_strips
from hsi_runtime.walk.windows import Window
from hsi_train.simulate import SceneSpec, band_centres, write_scene

CHUNK = 8 * 1024**2
HALO = 6


def plain(path: Path, buffer: bytearray) -> None:
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def strips(path: Path) -> None:
    scene = open_scene(path)
    info = scene.info
    plan = windows.plan(
        (info.rows, info.cols),
        Window(0, 0, info.rows, info.cols),
        info.bands * info.dtype.itemsize,
        info.block,
        HALO,
    )
    for _ in read_strips(scene, np.arange(info.bands), plan, HALO):
        pass
    scene.close()


def seconds(work: object, *arguments: object) -> float:
    started = time.perf_counter()
    work(*arguments)  # type: ignore[operator]
    return time.perf_counter() - started


@click.command()
@click.option("--rows", default=2000)
@click.option("--cols", default=1000)
@click.option("--bands", default=200)
@click.option("--rounds", default=5)
@click.option("--folder", type=click.Path(path_type=Path), default=None)
def main(rows: int, cols: int, bands: int, rounds: int, folder: Path | None) -> None:
    spec = SceneSpec(rows=rows, cols=cols, wavelengths_nm=band_centres(bands))
    buffer = bytearray(CHUNK)
    figures = {}
    for layout in ("bsq", "bil", "bip", "tiff-band", "tiff-pixel"):
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            path = Path(temporary) / ("scene.tif" if "tiff" in layout else "scene.img")
            write_scene(spec, path, layout=layout)
            size = path.stat().st_size
            ratios, rates = [], []
            for _ in range(rounds + 1):  # the first round warms the cache
                fast, ours = seconds(plain, path, buffer), seconds(strips, path)
                ratios.append(fast / ours)
                rates.append(size / ours / 1e6)
            figures[layout] = {
                "share_of_sequential_median": round(statistics.median(ratios[1:]), 2),
                "range": [round(min(ratios[1:]), 2), round(max(ratios[1:]), 2)],
                "megabytes_per_second": round(statistics.median(rates[1:])),
            }
    common.report("reading", {"rows": rows, "cols": cols, "bands": bands, **figures})


if __name__ == "__main__":
    main()
