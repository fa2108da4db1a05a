"""Files of no product that is read: named, with what to do instead."""

import builtins
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from hsi_runtime.errors import SceneError
from hsi_runtime.scenes.opening import open_scene


def with_names(path: Path, *names: str) -> Path:
    with h5py.File(path, "w") as file:
        for name in names:
            file[name] = np.ones((4, 5, 6), "f4")
    return path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("HDFEOS/SWATHS/PRS_L1_HCO/Data Fields/VNIR_Cube", "PRISMA L1, .* order L2D"),
        ("HDFEOS/SWATHS/PRS_L2B_HCO/Data Fields/VNIR_Cube", "PRISMA L2B, a swath"),
        ("HDFEOS/SWATHS/PRS_L2C_HCO/Data Fields/VNIR_Cube", "PRISMA L2C, a swath"),
        ("HDFEOS/SWATHS/HYP/Data Fields/toa_radiance", "Tanager basic, .* the ortho"),
        ("geophysical_data/rhos", "PACE OCI, .* take an L3 mapped product"),
        ("geolocation_lookup_table/line", "AVIRIS-5 radiance .* RFL_ORT product"),
        ("uncertainty/uncertainty", "is the uncertainty of AVIRIS .* RFL_ORT file"),
    ],
)
def test_swaths_are_refused_by_name(name: str, message: str, tmp_path: Path) -> None:
    path = with_names(tmp_path / "a.h5", name)
    with pytest.raises(SceneError, match=message):
        open_scene(path)


def test_unknown_file_names_what_it_holds_and_what_is_read(tmp_path: Path) -> None:
    path = with_names(tmp_path / "a.nc", "science/cube", "science/lat", "spectra")
    with pytest.raises(SceneError) as caught:
        open_scene(path)
    message = str(caught.value)
    assert "holds science, spectra, science/cube, science/lat." in message
    for product in ("NEON AOP", "Tanager", "PRISMA L2D", "AVIRIS-3", "EMIT L2A"):
        assert product in message
    assert message.endswith("Convert its cube to GeoTIFF or ENVI.")


def test_empty_file(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match="it holds nothing"):
        open_scene(with_names(tmp_path / "a.h5"))


def test_cube_of_two_axes(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["S/Reflectance/Reflectance_Data"] = np.ones((4, 5), "i2")
    with pytest.raises(SceneError, match=r"has the shape .*three axes were expected"):
        open_scene(path)


def test_without_h5py_the_line_of_pip_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = with_names(tmp_path / "a.h5", "x")
    real = builtins.__import__

    def absent(name: str, *rest: Any) -> Any:
        if name == "hsi_runtime.scenes.hdf5.container":
            raise ModuleNotFoundError("No module named 'h5py'", name="h5py")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(SceneError, match=r"pip install 'hsi-edge\[hdf5\]'"):
        open_scene(path)
