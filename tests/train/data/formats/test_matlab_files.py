"""MATLAB files that promise much, or refer to other files."""

import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import fuzzing
import h5py
import numpy as np
import pytest
from scipy.io import savemat

from hsi_runtime.errors import ResourceError, SceneError
from hsi_train.data import matlab
from hsi_train.data.formats import matlab_files, matlab_structs

MAP = np.arange(12, dtype=np.uint8).reshape(3, 4)
CUBE = np.arange(60, dtype=np.int16).reshape(3, 4, 5)


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A file that nobody gave."""
    path = tmp_path / "elsewhere.h5"
    with h5py.File(path, "w") as file:
        file["gt"] = MAP.T
    return path


def external_link(path: Path, other: Path) -> None:
    with h5py.File(path, "w") as file:
        file["gt"] = h5py.ExternalLink(str(other), "/gt")


def raw_storage(path: Path, other: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("gt", (4, 3), "u1", external=[(str(other), 0, 12)])


def virtual_data(path: Path, other: Path) -> None:
    layout = h5py.VirtualLayout((4, 3), "u1")
    layout[...] = h5py.VirtualSource(str(other), "gt", (4, 3))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("gt", layout)


@pytest.mark.parametrize("refer", [external_link, raw_storage, virtual_data])
def test_what_lies_in_other_files_is_refused(
    tmp_path: Path, other: Path, refer: Any
) -> None:
    path = tmp_path / "a.mat"
    refer(path, other)
    with pytest.raises(SceneError, match=r"gt is .*, which reads another file"):
        matlab.read_array(str(path), 2)


def test_soft_links_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    with h5py.File(path, "w") as file:
        file["gt"] = MAP.T
        file["again"] = h5py.SoftLink("/gt")
        file["nowhere"] = h5py.SoftLink("/nothing")
    np.testing.assert_array_equal(matlab.read_array(str(path), 2), MAP)


def test_text_of_matlab_is_no_label_map(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    with h5py.File(path, "w") as file:
        file["gt"] = MAP.T
        file["title"] = np.zeros((9, 1), dtype=np.uint16)
        file["title"].attrs["MATLAB_class"] = np.bytes_("char")
    np.testing.assert_array_equal(matlab.read_array(str(path), 2), MAP)


def empty_hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        shape = 200, 3000, 2000
        file.create_dataset("cube", shape, "f8", chunks=(1, 100, 100), compression=9)


def small_v5(path: Path) -> None:
    """A compressed variable whose header promises 8.9 GB."""
    flags = struct.pack("<IIII", 6, 8, 6, 0)
    shape = struct.pack("<IIiiiI", 5, 12, 30_000, 370, 100, 0)
    name = struct.pack("<HH4s", 1, 4, b"cube")
    data = struct.pack("<II", 9, 8 * 30_000 * 370 * 100 % 2**32) + bytes(64)
    matrix = flags + shape + name + data
    packed = zlib.compress(struct.pack("<II", 14, len(matrix)) + matrix)
    head = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
    path.write_bytes(head + struct.pack("<II", 15, len(packed)) + packed)


@pytest.mark.parametrize("write", [empty_hdf5, small_v5])
def test_a_small_file_cannot_ask_for_gigabytes(tmp_path: Path, write: Any) -> None:
    path = tmp_path / "a.mat"
    write(path)
    assert path.stat().st_size < 100_000
    tracemalloc.start()
    try:
        with pytest.raises(SceneError, match=r"too small for cube with shape"):
            matlab.open_cube(str(path))
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()


def test_an_array_larger_than_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    savemat(tmp_path / "a.mat", {"cube": CUBE})
    monkeypatch.setattr(matlab_files, "machine_bytes", lambda: 100)
    with pytest.raises(ResourceError, match="more than the memory of this machine"):
        matlab.open_cube(str(tmp_path / "a.mat"))


def test_only_the_array_that_is_used_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    savemat(tmp_path / "v5.mat", {"gt": MAP, "cube": CUBE})
    with h5py.File(tmp_path / "v73.mat", "w") as file:
        file["gt"], file["cube"] = MAP.T, CUBE.T
    read: list[Any] = []
    original = h5py.Dataset.__array__

    def watched(self: Any, *arguments: Any, **keywords: Any) -> Any:
        read.append(self.name)
        return original(self, *arguments, **keywords)

    monkeypatch.setattr(h5py.Dataset, "__array__", watched)
    for name in ("v5.mat", "v73.mat"):
        path = str(tmp_path / name)
        np.testing.assert_array_equal(matlab.read_array(path, 2), MAP)
    assert read == ["/gt"]


def test_fields_of_a_struct_are_listed(tmp_path: Path) -> None:
    savemat(tmp_path / "v5.mat", {"data": {"cube": CUBE, "gt": MAP}})
    with h5py.File(tmp_path / "v73.mat", "w") as file:
        group = file.create_group("data")
        group["cube"], group["gt"] = CUBE.T, MAP.T
    for name in ("v5.mat", "v73.mat"):
        with pytest.raises(SceneError) as refused:
            matlab.open_cube(str(tmp_path / name))
        assert "a struct with fields cube (3, 4, 5), gt (3, 4)" in str(refused.value)


@pytest.mark.parametrize("version", [5, 73])
def test_a_cube_declares_wavelengths_and_nodata(tmp_path: Path, version: int) -> None:
    beside: dict[str, Any] = {
        "Wavelengths": np.linspace(450, 850, 5)[None],
        "fwhm": np.full((5, 1), 10.0),
        "nodata": np.array([[7.0]]),
    }
    path = tmp_path / "a.mat"
    if version == 5:
        savemat(path, {"cube": CUBE, **beside})
    else:
        with h5py.File(path, "w") as file:
            for name, values in {"cube": CUBE, **beside}.items():
                file[name] = values.T
    info = matlab.open_cube(str(path)).info
    assert info.wavelengths_nm is not None
    assert info.fwhm_nm is not None
    np.testing.assert_allclose(info.wavelengths_nm, [450, 550, 650, 750, 850])
    np.testing.assert_allclose(info.fwhm_nm, np.full(5, 10.0))
    np.testing.assert_array_equal(info.nodata, np.full(5, 7.0))
    assert info.files == (path,)
    assert "no unit; taken as nm" in info.notes[0]


def test_wavelengths_of_other_bands_are_not_used(tmp_path: Path) -> None:
    savemat(tmp_path / "a.mat", {"cube": CUBE, "wavelengths_nm": np.arange(400, 407)})
    info = matlab.open_cube(str(tmp_path / "a.mat")).info
    assert info.wavelengths_nm is None
    assert "has 7 values for 5 bands and is not used" in info.notes[0]


@pytest.mark.parametrize("name", ["nodata", "NoDataValue", "data_ignore_value"])
def test_nodata_by_other_names_and_for_each_band(tmp_path: Path, name: str) -> None:
    path = str(tmp_path / "a.mat")
    savemat(path, {"cube": CUBE, name: np.full(5, 7.0)})
    np.testing.assert_array_equal(matlab.open_cube(path).info.nodata, np.full(5, 7.0))
    savemat(path, {"cube": CUBE, name: [7.0, 7, 7, 7, 8]})
    with pytest.raises(SceneError, match="several values of nodata"):
        matlab.open_cube(path)


def test_nodata_that_the_cube_cannot_hold_is_told(tmp_path: Path) -> None:
    savemat(tmp_path / "a.mat", {"cube": CUBE.astype(np.uint8), "nodata": -9999.0})
    info = matlab.open_cube(str(tmp_path / "a.mat")).info
    assert "declares nodata -9999, which uint8 values never take" in info.notes[-1]


def test_a_struct_is_not_unpacked_for_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.mat"
    savemat(path, {"s": {"x": np.zeros((9000, 1000))}}, do_compression=True)
    assert path.stat().st_size < 100_000
    monkeypatch.setattr(fuzzing, "BYTES", 60e6)
    file = matlab_files.open_file(str(path))
    fuzzing.bounded(lambda _: print(file.fields("s")), b"")
    assert file.fields("s") == {"x": (9000, 1000)}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("wrong", range(0, 200, 7))
def test_damaged_structs_have_no_fields(tmp_path: Path, order: str, wrong: int) -> None:
    path = tmp_path / "a.mat"
    savemat(path, {"s": {"x": np.zeros((3, 4)), "y": np.zeros(2)}})
    data = bytearray(path.read_bytes())
    data[126:128] = b"IM" if order == "<" else b"MI"
    data[128 + wrong % (len(data) - 128)] ^= 0xFF
    path.write_bytes(data)
    assert isinstance(matlab_structs.fields(str(path), "s"), dict)


def test_more_variables_than_anybody_saves(tmp_path: Path) -> None:
    savemat(tmp_path / "a.mat", {"x": np.zeros((1, 1))})
    data = (tmp_path / "a.mat").read_bytes()
    (tmp_path / "a.mat").write_bytes(data + data[128:] * 10_000)
    with h5py.File(tmp_path / "b.mat", "w") as file:
        for number in range(10_001):
            file.create_group(str(number))
    for name in ("a.mat", "b.mat"):
        with pytest.raises(SceneError, match="more than 10000 variables"):
            matlab_files.open_file(str(tmp_path / name))
