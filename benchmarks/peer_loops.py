"""Maps a scene with a loop that a user would write: what hsi-run is compared with.

    python peer_loops.py rasterio|dask SCENE MODEL HALO OUTPUT

Each block of 512 pixels is read with its context, mirrored at the scene's edge, and
classified at once by onnxruntime on all cores. There is no mask, no journal and no
overview. It imports nothing of this project.
"""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

SIDE = 512


def session(path: str, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])


def classify(engine: Any, cube: Any) -> Any:
    (shares,) = engine.run(["probabilities"], {"cube": cube[None].astype(np.float32)})
    return (shares[0].argmax(axis=0) + 1).astype(np.uint8)


def with_rasterio(scene: str, model: str, halo: int, output: str) -> None:
    import rasterio
    from rasterio.windows import Window

    engine = session(model, len(os.sched_getaffinity(0)))
    with rasterio.open(scene) as source:
        profile = {
            **{"driver": "GTiff", "count": 1, "dtype": "uint8", "tiled": True},
            **{"blockxsize": SIDE, "blockysize": SIDE, "compress": "deflate"},
            **{"width": source.width, "height": source.height},
            **{"crs": source.crs, "transform": source.transform},
        }
        with rasterio.open(output, "w", **profile) as target:
            for row in range(0, source.height, SIDE):
                for col in range(0, source.width, SIDE):
                    bottom = min(row + SIDE, source.height)
                    right = min(col + SIDE, source.width)
                    above, left = min(row, halo), min(col, halo)
                    below = min(source.height - bottom, halo)
                    beside = min(source.width - right, halo)
                    window = Window.from_slices(
                        (row - above, bottom + below), (col - left, right + beside)
                    )
                    rows = halo - above, halo - below
                    edges = (0, 0), rows, (halo - left, halo - beside)
                    cube = np.pad(source.read(window=window), edges, mode="reflect")
                    place = Window.from_slices((row, bottom), (col, right))
                    target.write(classify(engine, cube), 1, window=place)


def with_dask(scene: str, model: str, halo: int, output: str) -> None:
    import dask.array
    import rioxarray

    engine = session(model, 1)  # dask computes a block on each core
    raster = rioxarray.open_rasterio(scene, chunks=(-1, SIDE, SIDE))
    depth = {0: 0, 1: halo, 2: halo}
    # Its own mirror repeats the edge; the values there do not matter here.
    padded = dask.array.overlap.overlap(
        raster.data, depth=depth, boundary={0: "none", 1: "reflect", 2: "reflect"}
    )
    codes = padded.map_blocks(
        lambda cube: classify(engine, cube)[None],
        dtype=np.uint8,
        chunks=((1,), *raster.data.chunks[1:]),
    )
    result = raster.isel(band=slice(0, 1)).copy(data=codes)
    result.attrs.pop("long_name", None)
    for name in ("scales", "offsets", "scale_factor", "add_offset", "_FillValue"):
        result.attrs.pop(name, None)
    result.rio.to_raster(output, tiled=True, compress="deflate", dtype="uint8")


if __name__ == "__main__":
    kind, scene, model, halo, output = sys.argv[1:]
    loops = {"rasterio": with_rasterio, "dask": with_dask}
    loops[kind](scene, model, int(halo), output)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (high_water,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    print(json.dumps({"peak_memory_bytes": int(high_water) * 1024}))
