"""Each simulated product trains, exports and runs as the same scene in a GeoTIFF."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from products import Delivered

pytest.importorskip("torch")
pytest.importorskip("onnx")

from hsi_export.cli import main as hsi_export
from hsi_runtime import classify
from hsi_runtime.cli import main as hsi_run
from hsi_train.cli import main as hsi_train
from hsi_train.simulate import write_scene

BANDS = 24
PRODUCTS = ("enmap", "desis", "wyvern")  # of HDF5 files: test_gridded_products
RADIANCE = ("enmap", "desis")  # of level L1C, whose gains and offsets all differ


def mapped(path: Path) -> Any:
    with rasterio.open(path) as file:
        return file.read(1), file.transform, file.tags()


def write_twin(made: Delivered, path: Path) -> None:
    """Write a product's cube as a plain GeoTIFF, in the units of METADATA.XML."""
    cube = next(made.path.glob("*SPECTRAL_IMAGE.[Tt][Ii][Ff]"))
    text = next(made.path.glob("*METADATA.[Xx][Mm][Ll]")).read_text()
    with rasterio.open(cube) as file:
        values, profile = file.read(), file.profile
    numbers = [
        [float(n) for n in re.findall(rf"<{name}OfBand>(.+?)<", text, re.IGNORECASE)]
        for name in ("gain", "offset")
    ]
    with rasterio.open(path, "w", **profile) as file:
        file.scales, file.offsets = numbers
        file.write(values)
        for band, centre in enumerate(made.spec.wavelengths_nm, start=1):
            file.update_tags(band, wavelength=repr(centre), wavelength_units="nm")


@pytest.mark.parametrize(
    ("product", "level"),
    [*((name, "") for name in PRODUCTS), *((name, "L1C") for name in RADIANCE)],
)
def test_product_and_geotiff_give_one_map(
    product: str,
    level: str,
    delivered: Callable[..., Delivered],
    tmp_path: Path,
    invoke: Any,
) -> None:
    made = delivered(product, bands=BANDS, level=level)
    twin = tmp_path / "twin.tif"
    if level:
        write_twin(made, twin)
    else:
        write_scene(made.spec, twin)
    given = ["--scene", made.path, "--labels", made.truth]
    given += ["--target-scene", made.path, "--target-labels", made.truth]
    run = tmp_path / "run"
    options = ["-o", run, "--rivals", "none", "--quiet", "--device", "cpu"]
    code, _, err = invoke(hsi_train, "lda", *given, *options)
    assert code == 0, err
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["target"]["overall_accuracy"] > 0.3
    code, _, err = invoke(hsi_export, run, "--quiet")
    assert code == 0, err
    model = run / "model.onnx"
    result = classify(made.path, model, tmp_path / "product.tif")
    assert result["scene"] == str(made.path)
    code, _, err = invoke(hsi_run, twin, "-m", model, "-o", tmp_path / "t.tif")
    assert code == 0, err
    classes, transform, tags = mapped(tmp_path / "product.tif")
    expected, place, others = mapped(tmp_path / "t.tif")
    np.testing.assert_array_equal(classes, expected)
    np.testing.assert_array_equal(classes != 255, made.valid)
    assert transform == place
    assert tags["HSI_PRODUCT"]
    assert tags["HSI_ACQUIRED"]
    assert "HSI_PRODUCT" not in others
