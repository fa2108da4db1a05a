import json
import os
from collections.abc import Callable
from pathlib import Path
from shutil import copy
from typing import Any, NamedTuple

import numpy as np
import pytest
from envi_files import write as write_envi

from hsi_runtime.errors import RecipeError, SceneError
from hsi_train import recipe
from hsi_train.fitting.progress import Watch
from hsi_train.recipe import Recipe
from hsi_train.run_folder import folder as run_folder
from hsi_train.run_folder import origin
from hsi_train.several.seeds import train_seeds
from hsi_train.training import train

WriteTif = Callable[..., Path]


def settings_of(folder: Path, **changes: Any) -> Recipe:
    content: dict[str, Any] = {
        "method": "mf2cnet",
        "data": {
            "scenes": [str(folder / "scene.tif")],
            "labels": [str(folder / "labels.tif")],
            "classes": str(folder / "classes.json"),
        },
        "split": {"mode": "file", "files": [str(folder / "roles.tif")]},
        "fit": {"epochs": 2, "batch": 12, "outputs": 1},
        "options": {"features": 4, "hidden": 4},
        "target": {
            "scenes": [str(folder / "there.tif")],
            "labels": [str(folder / "there-labels.tif")],
        },
    }
    return recipe.parse(content | changes)


def fill_folder(folder: Path, example: Any, write_tif: WriteTif) -> None:
    for name in ("scene.tif", "there.tif"):
        copy(example.scene, folder / name)
    for name in ("labels.tif", "there-labels.tif"):
        copy(example.labels, folder / name)
    roles = np.full((40, 40), 3, np.uint8)
    roles[::3, ::3] = 1
    write_tif(folder / "roles.tif", roles, step=8.0)
    names = {"1": "grass", "2": "soil", "3": "water"}
    (folder / "classes.json").write_text(json.dumps(names))


class Interrupted(NamedTuple):
    folder: Path
    run: Path


def stop(*_: Any) -> None:
    raise KeyboardInterrupt


@pytest.fixture
def interrupted(example: Any, tmp_path: Path, write_tif: WriteTif) -> Interrupted:
    fill_folder(tmp_path, example, write_tif)
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(settings_of(tmp_path), run, "cpu", watch=Watch(step=stop))
    return Interrupted(tmp_path, run)


def edit(path: Path) -> None:
    """Change the last byte; size and time stay."""
    status, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_no_file_of_a_run_may_change_before_it_is_resumed(
    interrupted: Interrupted,
) -> None:
    folder, run = interrupted
    wanted = settings_of(folder)
    for name in ("scene.tif", "labels.tif", "roles.tif", "there-labels.tif"):
        before = (folder / name).read_bytes()
        edit(folder / name)
        with pytest.raises(RecipeError, match=rf"other data: \S*{name} changed"):
            train(wanted, run, "cpu", resume=True)
        (folder / name).write_bytes(before)
    names = (folder / "classes.json").read_text()
    (folder / "classes.json").write_text(names + " ")
    with pytest.raises(RecipeError, match=r"classes\.json changed"):
        train(wanted, run, "cpu", resume=True)
    (folder / "classes.json").write_text(names)
    (folder / "scene.hdr").write_text("a header that was not there")
    with pytest.raises(RecipeError, match=r"scene\.hdr changed"):
        train(wanted, run, "cpu", resume=True)
    (folder / "scene.hdr").unlink()
    train(wanted, run, "cpu", resume=True)
    assert (run / "metrics.json").is_file()


def test_a_recipe_that_was_edited_does_not_hide_another_one(
    interrupted: Interrupted,
) -> None:
    folder, run = interrupted
    other = settings_of(folder, seed=5)
    text = (run / "recipe.toml").read_text()
    (run / "recipe.toml").write_text(text.replace("seed = 0", "seed = 5"))
    with pytest.raises(RecipeError, match="another recipe"):
        train(other, run, "cpu", resume=True)


def test_seeds_that_are_finished_were_trained_on_the_same_data(
    example: Any, tmp_path: Path, write_tif: WriteTif
) -> None:
    fill_folder(tmp_path, example, write_tif)
    wanted, runs = settings_of(tmp_path, target=None), tmp_path / "runs"

    def stop_the_second(epoch: Any) -> None:
        if (runs / "seed-1").is_dir():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_seeds(wanted, runs, 2, "cpu", watch=Watch(epoch=stop_the_second))
    edit(tmp_path / "labels.tif")
    with pytest.raises(RecipeError, match=r"seed-0 was trained on other.*labels\.tif"):
        train_seeds(wanted, runs, 2, "cpu", resume=True)


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(b"one")
    before = origin.stamps([path])
    assert list(origin.digests(before)) == [path]
    path.write_bytes(b"other")
    with pytest.raises(SceneError, match="changed while it was read"):
        origin.digests(before)


@pytest.mark.parametrize(
    ("given", "beside", "foreign"),
    [
        ("s.tif", ("s.hdr", "s.tif.aux.xml", "S.TFW"), ("s.png", "s2.hdr", "s.dat")),
        ("s.hdr", ("s.dat", "s.aux.xml"), ("s.tif", "s.dat.old")),
        ("s.hdr", ("s",), ("s.model.onnx",)),
        ("s.shp", ("s.dbf", "s.shx", "s.prj", "s.cpg"), ("s.qml",)),
        ("s.mat:cube", (), ("s.m", "t.mat")),
    ],
)
def test_side_cars_belong_to_a_file(
    tmp_path: Path, given: str, beside: tuple[str, ...], foreign: tuple[str, ...]
) -> None:
    own = given.removesuffix(":cube")
    for name in (own, *beside, *foreign):
        (tmp_path / name).write_bytes(b"")
    found = {p.name for p in origin.files_of([str(tmp_path / given)])}
    assert found == {own, *beside}


def test_files_of_one_name_are_named_by_their_paths(tmp_path: Path) -> None:
    one, two, other = tmp_path / "1" / "a", tmp_path / "2" / "a", tmp_path / "b"
    named = origin.by_name({one: "x", two: "y", other: "z"})
    assert named == {str(one): "x", str(two): "y", "b": "z"}


def test_a_crash_between_the_two_states_leaves_no_run_to_resume(
    interrupted: Interrupted,
) -> None:
    """The state of the pre-training is removed after that of the training is saved."""
    (interrupted.run / "pretrain.pt").write_bytes(b"of the pre-training before")
    train(settings_of(interrupted.folder), interrupted.run, "cpu", resume=True)
    assert not run_folder.interrupted(interrupted.run)


def test_all_files_that_a_scene_is_read_from_belong_to_a_run(tmp_path: Path) -> None:
    data = write_envi(tmp_path)
    odd = data.rename(tmp_path / "scene.xyz")  # found by its length alone
    header = tmp_path / "scene.hdr"
    (tmp_path / "scene.xzw").write_text("2\n0\n0\n-2\n4e5\n5e6\n")
    expected = {header, odd, tmp_path / "scene.xzw"}
    for given in (header, odd):
        assert set(origin.files_of([str(given)])) == expected
        assert set(origin.files_of([], [str(given)])) == expected


def test_changes_of_a_geopackage_that_are_not_in_it_yet(tmp_path: Path) -> None:
    labels, changes = tmp_path / "l.gpkg", tmp_path / "l.gpkg-wal"
    for path in (labels, changes):
        path.write_bytes(b"x")
    assert origin.files_of([], [str(labels)]) == [labels, changes]
