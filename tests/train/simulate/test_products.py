from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from hsi_runtime.errors import OutputError, SceneError
from hsi_train.simulate import truth_labels, write_scene
from hsi_train.simulate.__main__ import command
from hsi_train.simulate.products.generator import (
    MODULES,
    fewer,
    generator_of,
    product_spec,
)
from hsi_train.simulate.sensor import Sensor
from hsi_train.simulate.spec import band_widths

FOLDERS = [name for name in MODULES if generator_of(name).folder]


@pytest.mark.parametrize("product", MODULES)
def test_bands_of_a_sensor(product: str) -> None:
    bands = generator_of(product).bands
    assert len(bands.centres_nm) == len(bands.widths_nm)
    assert (np.diff(bands.centres_nm) > 0).all()
    assert min(bands.widths_nm) > 0
    spec = product_spec(product, 5, rows=3, cols=4)
    assert spec.wavelengths_nm[0] == bands.centres_nm[0]
    assert spec.wavelengths_nm[-1] == bands.centres_nm[-1]
    assert len(band_widths(spec)) == 5
    assert spec.resolution_m == generator_of(product).resolution_m
    with pytest.raises(
        SceneError, match=f"{product} has {len(bands.centres_nm)} bands"
    ):
        product_spec(product, len(bands.centres_nm) + 1, rows=3, cols=4)
    assert fewer(bands, len(bands.centres_nm)) == bands


@pytest.mark.parametrize("product", FOLDERS)
def test_strips_have_no_influence(product: str, tmp_path: Path) -> None:
    spec = product_spec(product, 4, rows=40, cols=30, nodata_border=True)
    for name, rows in (("a", 40), ("b", 7)):
        write_scene(spec, tmp_path / name, product=product, strip_rows=rows)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "b").iterdir())
    for name in names:
        one, two = tmp_path / "a" / name, tmp_path / "b" / name
        if name.lower().endswith((".tif", ".tiff")):
            with rasterio.open(one) as first, rasterio.open(two) as second:
                np.testing.assert_array_equal(first.read(), second.read())
        else:
            assert one.read_text() == two.read_text()


def test_truth_lies_on_the_grid_of_the_product(tmp_path: Path) -> None:
    spec = product_spec("enmap", 4, rows=20, cols=30, nodata_border=True)
    write_scene(spec, tmp_path / "p", product="enmap", truth=tmp_path / "t.tif")
    (cube,) = (tmp_path / "p").glob("*SPECTRAL_IMAGE.TIF")
    with rasterio.open(cube) as image, rasterio.open(tmp_path / "t.tif") as truth:
        assert image.transform == truth.transform
        assert image.crs == truth.crs
        _, shares, valid = Sensor(spec).window(0, 20)
        np.testing.assert_array_equal(truth.read(1), truth_labels(shares, valid))


def test_folders_of_others_are_kept(tmp_path: Path) -> None:
    spec = product_spec("desis", 2, rows=4, cols=5)
    target = tmp_path / "p"
    target.mkdir()
    (target / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="is not empty; --overwrite"):
        write_scene(spec, target, product="desis")
    write_scene(spec, target, product="desis", overwrite=True)
    assert (target / "mine.txt").read_text() == "mine"
    assert len(list(target.glob("DESIS*"))) == 5
    with pytest.raises(OutputError, match="is a file; a product needs a folder"):
        write_scene(spec, target / "mine.txt", product="desis", overwrite=True)


def test_failure_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Sensor, "window", fail)
    spec = product_spec("enmap", 2, rows=4, cols=5)
    with pytest.raises(KeyboardInterrupt):
        write_scene(spec, tmp_path / "p", product="enmap")
    assert list(tmp_path.iterdir()) == []


def test_command(tmp_path: Path, invoke: Callable[..., Any]) -> None:
    from hsi_runtime import command_line

    def main() -> None:
        command_line.run(command)

    target = tmp_path / "p"
    size = ["--rows", 6, "--cols", 7, "--bands", 3]
    assert invoke(main, target, "--as", "desis", *size).code == 0
    (cube,) = target.glob("*IMAGE.tif")
    with rasterio.open(cube) as file:
        assert (file.count, file.height, file.width) == (3, 6, 7)
        assert file.transform.a == 30
    for option in (["--dtype", "uint16"], ["--sparse"], ["--range", 400, 900]):
        code, _, err = invoke(main, tmp_path / "q", "--as", "desis", *option)
        assert (code, f"{option[0]} has no meaning with --as desis" in err) == (2, True)
    code, _, err = invoke(main, tmp_path / "q", "--as", "desis", "--bands", 500)
    assert code == 3
    assert "desis has 235 bands" in err
