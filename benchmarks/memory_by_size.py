"""Does the memory of hsi-run grow with the scene?

    python benchmarks/memory_by_size.py

Scenes of 2, 8 and 32 GB with 100 bands, uint16. Only the first rows hold values, so
that the engine works at its full window size; the rest is nodata and needs no room on
disk.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import code_digest
import common
import numpy as np
import rasterio
from rasterio.transform import from_origin
from rasterio.windows import Window

from hsi_train.simulate import band_centres

COLS, BANDS, FILLED_ROWS, BLOCK = 2000, 100, 512, 128


def write_sparse(path: Path, rows: int) -> None:
    values = np.random.default_rng(0).integers(1, 5000, (BANDS, FILLED_ROWS, COLS))
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=BANDS,
        height=rows,
        width=COLS,
        dtype="uint16",
        nodata=0,
        crs="EPSG:32633",
        transform=from_origin(4e5, 5.8e6, 1, 1),
        interleave="band",
        tiled=True,
        blockxsize=BLOCK,
        blockysize=BLOCK,
        BIGTIFF="YES",
        SPARSE_OK="TRUE",
    ) as raster:
        raster.scales = (1e-4,) * BANDS
        for band, centre in enumerate(band_centres(BANDS), start=1):
            raster.update_tags(
                band, wavelength=repr(centre), wavelength_units="Nanometers"
            )
        window = Window(0, 0, COLS, FILLED_ROWS)
        raster.write(values.astype(np.uint16), window=window)


@click.command()
@click.option("--sizes", default="2,8,32", help="Gigabytes, separated by commas.")
@click.option("--max-memory", default="1G")
def main(sizes: str, max_memory: str) -> None:
    figures = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = common.make_model(folder, "mf2cnet", BANDS, 10, 400, 2500)
        for size in map(float, sizes.split(",")):
            rows = round(size * 1e9 / (2 * BANDS * COLS))
            write_sparse(folder / "scene.tif", rows)
            command = [
                str(Path(sys.executable).with_name("hsi-run")),
                *(str(folder / "scene.tif"), "-m", str(model.path)),
                *("-o", str(folder / "map.tif"), "--overwrite", "--json", "-q"),
                *("--max-memory", max_memory),
            ]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            done.check_returncode()
            result = json.loads(done.stdout)
            figures[f"{size:g} GB"] = {
                "rows": rows,
                "peak_memory_bytes": result["peak_memory_bytes"],
                "seconds": round(result["seconds"]["total"], 1),
            }
    peaks = [f["peak_memory_bytes"] for f in figures.values()]
    common.report(
        "memory_by_size",
        {
            "max_memory": max_memory,
            **figures,
            "largest_over_smallest": round(max(peaks) / min(peaks), 3),
        },
        code_digest.of_running("mf2cnet"),
    )


if __name__ == "__main__":
    main()
