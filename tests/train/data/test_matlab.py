from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.io import savemat

from hsi_runtime.errors import SceneError
from hsi_train.data import matlab

CUBE = np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5)  # (row, col, band)
MAP = np.arange(12, dtype=np.uint8).reshape(3, 4)


def write_v73(path: Path, **arrays: NDArray[np.generic]) -> Path:
    """Write as MATLAB does: reversed axes, behind 512 bytes of header."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in arrays.items():
            file[name] = array.T
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    return path


def write_v5(path: Path, **arrays: NDArray[np.generic]) -> Path:
    savemat(path, arrays)
    return path


@pytest.mark.parametrize("write", [write_v5, write_v73])
def test_cube_is_band_first(tmp_path: Path, write: object) -> None:
    assert callable(write)
    path = write(tmp_path / "cube.mat", cube=CUBE)
    scene = matlab.open_cube(str(path))
    info = scene.info
    assert (info.bands, info.rows, info.cols) == (5, 3, 4)
    assert info.dtype == np.int16
    assert info.wavelengths_nm is None
    assert info.transform is None
    assert np.isnan(info.nodata).all()
    read = scene.read((1, 3), (0, 2), np.array([4, 0]))
    assert read.flags.c_contiguous
    np.testing.assert_array_equal(read, CUBE[1:3, 0:2, [4, 0]].transpose(2, 0, 1))
    scene.close()


@pytest.mark.parametrize("write", [write_v5, write_v73])
def test_array_is_chosen_by_dimension_or_name(tmp_path: Path, write: object) -> None:
    assert callable(write)
    path = write(tmp_path / "both.mat", data=CUBE, gt=MAP, seed=np.array([[7]]))
    np.testing.assert_array_equal(matlab.read_array(str(path), 2), MAP)
    np.testing.assert_array_equal(matlab.read_array(f"{path}:gt", 2), MAP)
    assert matlab.open_cube(f"{path}:data").info.bands == 5
    for name, dimensions in (("nothing", 3), ("gt", 3)):
        with pytest.raises(
            SceneError, match=rf"no 3-D array '{name}'.*data \(3, 4, 5\)"
        ):
            matlab.read_array(f"{path}:{name}", dimensions)


@pytest.mark.parametrize("write", [write_v5, write_v73])
def test_several_arrays_are_listed(tmp_path: Path, write: object) -> None:
    assert callable(write)
    path = write(tmp_path / "two.mat", first=CUBE, second=CUBE + 1)
    with pytest.raises(SceneError, match=r"2 3-D arrays.*:NAME.*first.*second"):
        matlab.open_cube(str(path))
    only_map = write(tmp_path / "map.mat", gt=MAP)
    with pytest.raises(SceneError, match=r"0 3-D arrays.*gt \(3, 4\)"):
        matlab.open_cube(str(only_map))


def test_text_and_cells_are_not_taken_for_labels(tmp_path: Path) -> None:
    names = np.empty((1, 2), dtype=object)
    names[:] = ["roof", "tree"]
    savemat(tmp_path / "gt.mat", {"gt": MAP, "names": names, "title": ["ab", "cd"]})
    np.testing.assert_array_equal(matlab.read_array(str(tmp_path / "gt.mat"), 2), MAP)


def test_plain_hdf5_named_mat_is_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "plain.mat", "w") as file:
        file["cube"] = CUBE.T
    assert matlab.open_cube(str(tmp_path / "plain.mat")).info.bands == 5


def test_big_endian_values_become_native(tmp_path: Path) -> None:
    path = write_v73(tmp_path / "cube.mat", cube=CUBE.astype(">i2"))
    scene = matlab.open_cube(str(path))
    read = scene.read((0, 3), (0, 4), np.arange(5))
    assert read.dtype == scene.info.dtype
    assert read.dtype.isnative
    np.testing.assert_array_equal(read, CUBE.transpose(2, 0, 1))


@pytest.mark.parametrize("dtype", ["int64", "complex128"])
def test_types_no_scene_can_have_are_refused(tmp_path: Path, dtype: str) -> None:
    savemat(tmp_path / "cube.mat", {"cube": CUBE.astype(dtype)})
    with pytest.raises(SceneError, match="cube"):
        matlab.open_cube(str(tmp_path / "cube.mat"))


@pytest.mark.parametrize(
    "content",
    [b"", b"MATLAB", b"no matlab file at all" * 50, b"\x89HDF\r\n\x1a\n" + bytes(100)],
)
def test_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.mat"
    path.write_bytes(content)
    with pytest.raises(SceneError, match=r"bad\.mat is not a readable MATLAB file"):
        matlab.open_cube(str(path))


@pytest.mark.parametrize("write", [write_v5, write_v73])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_truncated_file_is_refused(tmp_path: Path, write: object, share: float) -> None:
    assert callable(write)
    rng = np.random.default_rng(0)
    path = write(tmp_path / "cube.mat", cube=rng.integers(0, 9999, (20, 20, 8)))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(SceneError, match=r"cube\.mat"):
        matlab.open_cube(str(path))


def test_paths_that_mean_matlab() -> None:
    assert matlab.is_matlab("a/b.mat")
    assert matlab.is_matlab("a/b.MAT:gt")
    assert not matlab.is_matlab("a/b.tif")
    assert not matlab.is_matlab("a.mat/b.tif")
