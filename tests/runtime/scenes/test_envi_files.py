"""Which data file belongs to which header."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from envi_files import everything, header_text, write

from hsi_runtime.errors import SceneError
from hsi_runtime.scenes.opening import open_scene


def data(path: Path, value: int) -> Path:
    path.write_bytes(np.full(60, value, "<u2").tobytes())
    return path


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("SCENE.HDR", "SCENE.IMG"),
        ("scene.Hdr", "scene.img"),
        ("scene.HDR", "SCENE.dat"),
        ("Scene.hdr", "scene.BSQ"),
        ("scene.IMG.HDR", "scene.img"),
        ("scene.hdr", "scene.ref"),
        ("scene.hdr", "scene.hyspex"),
        ("raw[1].hdr", "raw[1].rfl"),
    ],
)
def test_names_of_any_case_and_suffix(header: str, name: str, tmp_path: Path) -> None:
    (tmp_path / header).write_text(header_text())
    data(tmp_path / name, 7)
    scene = open_scene(tmp_path / header)
    assert scene.info.path == tmp_path / name
    assert (everything(scene) == 7).all()
    if Path(name).suffix.lower() != ".ref":
        assert open_scene(tmp_path / name).info.bands == 3


def test_other_suffix_needs_the_promised_length(tmp_path: Path) -> None:
    (tmp_path / "scene.hdr").write_text(header_text())
    (tmp_path / "scene.txt").write_text("notes")
    with pytest.raises(SceneError, match="data file is missing"):
        open_scene(tmp_path / "scene.hdr")


def test_data_with_a_header_of_its_own_is_another_scene(tmp_path: Path) -> None:
    for name in ("s.hdr", "s.img.hdr"):
        (tmp_path / name).write_text(header_text())
    data(tmp_path / "s.img", 1)
    data(tmp_path / "s.dat", 2)
    assert (everything(open_scene(tmp_path / "s.hdr")) == 2).all()
    assert (everything(open_scene(tmp_path / "s.img.hdr")) == 1).all()
    assert (everything(open_scene(tmp_path / "s.img")) == 1).all()


def test_two_data_files_of_one_header_are_listed(tmp_path: Path) -> None:
    (tmp_path / "x.hdr").write_text(header_text())
    for value, name in enumerate(("x.img", "x.bsq"), start=1):
        data(tmp_path / name, value)
    with pytest.raises(SceneError, match=r"header of x\.img or x\.bsq; give the data"):
        open_scene(tmp_path / "x.hdr")
    assert (everything(open_scene(tmp_path / "x.bsq")) == 2).all()


@pytest.mark.parametrize("magic", [b"II*\0", b"MM\0*", b"II+\0"])
def test_raw_values_that_begin_like_a_tiff(magic: bytes, tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_bytes(magic + path.read_bytes()[4:])
    for named in (path, tmp_path / "scene.hdr"):
        scene = open_scene(named)
        assert scene.info.driver == "ENVI"
        assert everything(scene).ravel()[2:].tolist() == list(range(2, 60))
    # Nothing but the length tells that the header is the file's.
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(SceneError, match="not a readable TIFF"):
        open_scene(path)


def test_folder_and_pipe_beside_a_header_are_no_data(tmp_path: Path) -> None:
    import os

    (tmp_path / "scene.hdr").write_text(header_text())
    (tmp_path / "scene").mkdir()
    os.mkfifo(tmp_path / "scene.img")
    with pytest.raises(SceneError, match="data file is missing"):
        open_scene(tmp_path / "scene.hdr")
    data(tmp_path / "scene.dat", 3)
    assert (everything(open_scene(tmp_path / "scene.hdr")) == 3).all()


def test_folder_is_not_listed_for_each_geotiff(
    tmp_path: Path, write_scene_tiff: Any, cube: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_scene_tiff(tmp_path / "s.tif", cube, crs=None, transform=None)

    def refuse(_: Path) -> Any:
        raise AssertionError("the folder is listed")

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert open_scene(path).info.bands == 4
