"""Scenes whose size is a threat: huge, hostile, or larger than memory allows."""

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.windows import Window

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path, write_model: Callable[..., Path]) -> Run:
    model = write_model(tmp_path / "model.onnx")

    def start(
        scene: Path, *more: str, before: Callable[[], None] | None = None
    ) -> subprocess.CompletedProcess[str]:
        script = "from hsi_runtime.cli import main; main()"
        return subprocess.run(
            [
                *(sys.executable, "-c", script, str(scene), "-m", str(model)),
                *("-o", str(tmp_path / "o.tif"), "--threads", "1", *more),
            ],
            capture_output=True,
            text=True,
            preexec_fn=before,
        )

    return start


def write_sparse(path: Path, rows: int, cols: int, **options: Any) -> Path:
    """Write a scene of `document` whose blocks are not in the file: all nodata."""
    profile: dict[str, Any] = {
        "driver": "GTiff", "count": 4, "height": rows, "width": cols,
        "dtype": "uint16", "nodata": 0, "sparse_ok": True, "bigtiff": "yes",
        "interleave": "pixel", "crs": "EPSG:32633",
        "transform": rasterio.transform.from_origin(0, 0, 2, 2), **options,
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as file:
        file.scales = (1e-4,) * 4
        for band, centre in enumerate((450.0, 550.0, 650.0, 850.0), start=1):
            file.update_tags(band, wavelength=centre, wavelength_units="Nanometers")
    return path


def test_a_header_that_promises_a_continent(tmp_path: Path, run: Run) -> None:
    tiles = {"tiled": True, "blockxsize": 1024, "blockysize": 1024}
    scene = write_sparse(tmp_path / "s.tif", 2_000_000, 2_000_000, **tiles)
    assert scene.stat().st_size < 200_000_000
    planned = run(scene, "--dry-run", "--json")
    assert planned.returncode == 0, planned.stderr
    assert json.loads(planned.stdout)["scratch_bytes"] == 4 * 10**12

    done = run(scene)
    assert done.returncode == 6, done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "o.tif").exists()


def test_one_block_larger_than_memory_may_be(tmp_path: Path, run: Run) -> None:
    scene = write_sparse(
        tmp_path / "s.tif", 9000, 9000, blockysize=9000, compress="lzw"
    )
    done = run(scene, "--max-memory", "500M")
    assert done.returncode == 6
    assert "blocks of 9000 x 9000 pixels, 648 MB each" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("megabytes", [700, 1000, 1600])
def test_memory_that_the_system_refuses(
    megabytes: int,
    tmp_path: Path,
    run: Run,
    write_scene_tiff: Callable[..., Path],
) -> None:
    values = np.random.default_rng(0).integers(1, 9999, (4, 1200, 1200))
    scene = write_scene_tiff(tmp_path / "s.tif", values.astype(np.uint16))
    size = megabytes * 1_000_000

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (size, size))

    done = run(scene, "--tile", "1200", before=limit)
    assert done.returncode in (0, 6), done.stderr
    assert "Traceback" not in done.stderr
    assert (done.returncode == 0) == (tmp_path / "o.tif").exists()


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_more_pixels_than_31_bits_count(tmp_path: Path, run: Run) -> None:
    side = 46_400  # squared, it is more than 2 ** 31
    tiles = {"tiled": True, "blockxsize": 512, "blockysize": 512}
    scene = write_sparse(tmp_path / "s.tif", side, side, **tiles)
    corner = np.full((4, 512, 512), 3000, np.uint16)
    window = Window(side - 512, side - 512, 512, 512)
    with rasterio.open(scene, "r+") as file:
        file.write(corner, window=window)
    done = run(scene, "--json", "--compress", "none", "--max-memory", "1G")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["pixels"]["nodata"] == side**2 - 512**2
    assert found["pixels"]["classified"] == 512**2
    assert found["peak_memory_bytes"] < 1e9
    assert (tmp_path / "o.tif").read_bytes()[:4] == b"II+\0"
    with rasterio.open(tmp_path / "o.tif") as file:
        values = file.read(1, window=window)
        assert (values != 255).all()
        assert (file.read(1, window=Window(0, 0, 700, 700)) == 255).all()
