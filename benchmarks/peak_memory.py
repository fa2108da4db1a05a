"""How much memory does hsi-run need for a scene of 8 GB?

    python benchmarks/peak_memory.py --folder FOLDER_WITH_9_GB_FREE

Simulates 20,000 x 2,000 pixels of 100 bands, uint16, then runs hsi-run as a process of
its own and reads its peak memory from the operating system.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import common

from hsi_train.simulate import SceneSpec, band_centres, write_scene


@click.command()
@click.option("--rows", default=20_000)
@click.option("--cols", default=2_000)
@click.option("--bands", default=100)
@click.option("--layout", default="tiff-band")
@click.option("--folder", type=click.Path(path_type=Path), default=None)
def main(rows: int, cols: int, bands: int, layout: str, folder: Path | None) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        work = Path(temporary)
        model = common.make_model(work, "mf2cnet", bands, 10, 400, 2500)
        spec = SceneSpec(
            rows=rows, cols=cols, wavelengths_nm=band_centres(bands, 400, 2500)
        )
        scene = work / "scene"
        scene = scene.with_suffix(".tif") if layout.startswith("tiff") else scene
        started = time.monotonic()
        write_scene(spec, scene, layout=layout)  # type: ignore[arg-type]
        simulated = time.monotonic() - started
        command = [
            str(Path(sys.executable).with_name("hsi-run")),
            str(scene),
            *("-m", str(model.path), "-o", str(work / "map.tif"), "--json", "-q"),
        ]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        done.check_returncode()
        result = json.loads(done.stdout)
        common.report(
            f"peak_memory_{layout}",
            {
                "rows": rows,
                "cols": cols,
                "bands": bands,
                "layout": layout,
                "scene_bytes": scene.stat().st_size,
                "peak_memory_bytes": result["peak_memory_bytes"],
                "seconds": {k: round(v, 1) for k, v in result["seconds"].items()},
                "pixels_per_second": round(result["pixels_per_second"]),
                "simulated_in_seconds": round(simulated, 1),
            },
        )


if __name__ == "__main__":
    main()
