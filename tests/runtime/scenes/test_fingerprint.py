import dataclasses
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hsi_runtime.engines.opening import open_backend
from hsi_runtime.errors import SceneError
from hsi_runtime.model.model_file import read_model
from hsi_runtime.planning import prepare
from hsi_runtime.request import Request
from hsi_runtime.scenes.fingerprint import (
    SAMPLE_BYTES,
    ContentHash,
    check_unchanged,
    content_sha256,
    of_scene,
    only_content_differs,
)
from hsi_runtime.scenes.opening import open_scene
from hsi_runtime.scenes.scene import SceneInfo

Write = Callable[..., Path]
HEADER = """ENVI
samples = 31
lines = 23
bands = 4
data type = 12
interleave = bsq
byte order = 0
wavelength units = Nanometers
wavelength = {450, 550, 650, 850}
"""


@pytest.fixture
def scene(tmp_path: Path, cube: NDArray[Any]) -> SceneInfo:
    (tmp_path / "s.hdr").write_text(HEADER)
    (tmp_path / "s.img").write_bytes(cube.tobytes())
    opened = open_scene(tmp_path / "s.img")
    opened.close()
    return opened.info


def test_same_scene_twice_is_the_same(scene: SceneInfo) -> None:
    before = of_scene(scene)
    assert before == of_scene(scene)
    check_unchanged(before, of_scene(scene))


@pytest.mark.parametrize("name", ["s.hdr", "s.img"])
@pytest.mark.parametrize("change", ["append", "touch", "first", "last"])
def test_any_change_of_any_file_is_seen(
    name: str, change: str, scene: SceneInfo, tmp_path: Path
) -> None:
    before = of_scene(scene)
    path = tmp_path / name
    data, times = path.read_bytes(), path.stat()
    if change == "append":
        path.write_bytes(data + b"\n")
    elif change == "first":
        path.write_bytes(b"x" + data[1:])
    elif change == "last":
        path.write_bytes(data[:-1] + b"x")
    if change == "touch":
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    else:
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    after = of_scene(scene)
    assert after != before
    with pytest.raises(SceneError, match=rf"{name} changed while it was read") as error:
        check_unchanged(before, after)
    assert error.value.exit_code == 3


def test_samples_reach_both_ends_of_a_large_file(
    scene: SceneInfo, tmp_path: Path
) -> None:
    size = 40 * SAMPLE_BYTES + 17
    path = tmp_path / "s.img"
    marks = (0, SAMPLE_BYTES - 1, size - SAMPLE_BYTES, size - 1)
    found = []
    for mark in (None, *marks):
        data = np.zeros(size, dtype=np.uint8)
        if mark is not None:
            data[mark] = 1
        path.write_bytes(data.tobytes())
        found.append(of_scene(scene)["s.img"]["samples_sha256"])
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("name", ["s.hdr", "s.img"])
@pytest.mark.parametrize("change", ["append", "last"])
def test_content_is_that_of_all_files_wherever_they_lie(
    name: str, change: str, scene: SceneInfo, tmp_path: Path
) -> None:
    before = content_sha256(scene)
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in scene.files:
        (copy / path.name).write_bytes(path.read_bytes())
        os.utime(copy / path.name, ns=(1, 1))
    moved = dataclasses.replace(
        scene, files=tuple(copy / path.name for path in scene.files)
    )
    assert content_sha256(moved) == before
    data = (copy / name).read_bytes()
    changed = data + b"\n" if change == "append" else data[:-1] + b"x"
    (copy / name).write_bytes(changed)
    assert content_sha256(moved) != before


@pytest.mark.parametrize("place", [100_000, 1_500_000, -1_000])
def test_content_is_every_byte_of_a_large_file(
    place: int, scene: SceneInfo, tmp_path: Path
) -> None:
    data = np.arange(3_000_000, dtype=np.uint8)
    paths = [tmp_path / "a.img", tmp_path / "b.img"]
    for path in paths:
        path.write_bytes(data.tobytes())
        data[place] ^= 1
    found = [dataclasses.replace(scene, files=(path,)) for path in paths]
    expected = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    assert [content_sha256(info) for info in found] == expected
    assert expected[0] != expected[1]
    with ContentHash(found[0]) as content:
        assert content.result() == expected[0]


def test_content_of_several_files_is_that_of_their_listing(
    scene: SceneInfo, tmp_path: Path
) -> None:
    listing = "".join(
        f"{hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()}  {name}\n"
        for name in ("s.hdr", "s.img")
    )
    assert content_sha256(scene) == hashlib.sha256(listing.encode()).hexdigest()


def test_hash_in_the_background_tells_its_errors_and_can_be_left(
    scene: SceneInfo, tmp_path: Path
) -> None:
    gone = dataclasses.replace(scene, files=(tmp_path / "gone",))
    with (
        ContentHash(gone) as content,
        pytest.raises(SceneError, match="gone cannot be read any more"),
    ):
        content.result()
    endless = dataclasses.replace(scene, files=(Path("/dev/zero"),))
    with ContentHash(endless) as content:
        pass
    assert len(content.result()) == 64  # it has stopped


def test_scene_that_is_gone_is_named(scene: SceneInfo, tmp_path: Path) -> None:
    (tmp_path / "s.img").unlink()
    with pytest.raises(SceneError, match=r"s\.img cannot be read any more: No such"):
        of_scene(scene)


def test_plan_changes_with_all_that_values_depend_on(
    tmp_path: Path, cube: NDArray[Any], write_scene_tiff: Write, write_model: Write
) -> None:
    path = write_scene_tiff(tmp_path / "s.tif", cube)
    model = read_model(write_model(tmp_path / "m.onnx"))
    other = read_model(write_model(tmp_path / "n.onnx", bias=0.1))
    opened = open_scene(path)

    def plan(
        chosen: Any = model, device: str = "cpu", **options: Any
    ) -> dict[str, Any]:
        request = Request(path, tmp_path / "o.tif", **options)
        job = prepare(request, chosen, opened, lambda: open_backend(chosen, "cpu"))
        job.backend.device = device
        return job.dependencies()

    same = plan()
    assert plan() == same
    assert plan(preview=True) == same
    differing = {
        "model": plan(other),
        "device": plan(device="cuda"),
        "reject": plan(reject_below=0.5),
        "outputs": plan(confidence=True),
        "tile": plan(tile=7),
        "region": plan(bounds=(4e5, 58e5 - 10, 4e5 + 10, 58e5)),
    }
    for key, changed in differing.items():
        assert changed[key] != same[key]
        assert not only_content_differs(same, changed)
    os.utime(path, ns=(1, 1))
    touched = {**same, "scene": of_scene(opened.info)}
    assert touched != same
    assert only_content_differs(same, touched)
    opened.close()
