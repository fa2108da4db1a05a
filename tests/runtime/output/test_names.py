import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hsi_runtime.errors import HsiError, OutputError
from hsi_runtime.output.names import check_outputs, files_of, paths_of


def test_outputs_are_named_after_the_class_map() -> None:
    assert {k: p.name for k, p in paths_of(Path("a/b_classes.tif")).items()} == {
        "classes": "b_classes.tif",
        "confidence": "b_confidence.tif",
        "probabilities": "b_probabilities.tif",
        "abundances": "b_abundances.tif",
        "sets": "b_sets.tif",
        "novelty": "b_novelty.tif",
        "preview": "b_preview.png",
        "qml": "b_classes.qml",
        "stac": "b_classes.stac.json",
    }
    assert paths_of(Path("c.tiff"))["confidence"].name == "c_confidence.tif"


def test_outputs_that_are_refused(tmp_path: Path) -> None:
    scene, free = tmp_path / "s.tif", tmp_path / "free.tif"
    scene.write_bytes(b"scene")
    check_outputs([free], [scene], overwrite=False)
    (tmp_path / "link.tif").symlink_to(scene)
    (tmp_path / "hard.tif").hardlink_to(scene)
    (tmp_path / "sub").mkdir()
    for alias in ("s.tif", "link.tif", "hard.tif", "sub/../s.tif"):
        with pytest.raises(OutputError, match="is the input"):
            check_outputs([free, tmp_path / alias], [scene], overwrite=True)
    cases = {
        "sub": "is a folder",
        "nowhere/o.tif": "There is no folder",
        "s.tif/o.tif": "There is no folder",
        "long" * 90 + ".tif": "cannot be written: File name too long",
    }
    for name, match in cases.items():
        with pytest.raises(OutputError, match=match):
            check_outputs([tmp_path / name], [], overwrite=True)
    with pytest.raises(OutputError, match=r"exists; --overwrite replaces it"):
        check_outputs([scene], [], overwrite=False)
    check_outputs([scene], [], overwrite=True)


def test_two_outputs_of_one_name_are_refused(tmp_path: Path) -> None:
    twin = tmp_path / "sub" / ".." / "o.tif"
    with pytest.raises(OutputError, match="Two outputs would be written"):
        check_outputs([tmp_path / "o.tif", twin], [], overwrite=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="not writable"):
            check_outputs([tmp_path / "o.tif"], [], overwrite=False)
    finally:
        tmp_path.chmod(0o700)


def test_side_cars_are_outputs() -> None:
    paths = paths_of(Path("d/a_classes.tif"))
    names = [p.name for p in files_of(paths, ["classes", "confidence", "preview"])]
    assert names == [
        "a_classes.tif",
        "a_confidence.tif",
        "a_preview.png",
        "a_classes.qml",
        "a_classes.tif.aux.xml",
        "a_confidence.tif.aux.xml",
    ]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("target", ["file", "nothing", "folder", "itself"])
def test_symbolic_links_are_neither_followed_nor_replaced(
    overwrite: bool, target: str, tmp_path: Path
) -> None:
    link, kept = tmp_path / "o.tif", tmp_path / "kept.tif"
    kept.write_bytes(b"kept")
    targets = {"file": kept, "nothing": tmp_path / "x", "folder": tmp_path}
    link.symlink_to(targets.get(target, link))
    with pytest.raises(OutputError, match=r"is a symbolic link|is a folder"):
        check_outputs([link], [], overwrite)
    assert link.is_symlink()
    assert kept.read_bytes() == b"kept"


def test_link_in_the_folders_of_a_name_is_fine(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    check_outputs([tmp_path / "link" / "o.tif"], [], overwrite=False)


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir])
def test_what_is_no_file_is_refused(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    make(tmp_path / "o.tif")
    with pytest.raises(OutputError, match=r"not a regular file|is a folder"):
        check_outputs([tmp_path / "o.tif"], [], overwrite=True)


@pytest.mark.parametrize("name", ["o\udcff.tif", "d\udcff/o.tif"])
def test_names_that_are_not_utf8_are_a_sentence(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    with pytest.raises(OutputError, match="is not UTF-8") as error:
        check_outputs([tmp_path / name], [], overwrite=False)
    str(error.value).encode()


@pytest.mark.parametrize("name", ["o\0.tif", "o" * 300])
def test_names_that_no_file_has_are_a_sentence(name: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written") as error:
        check_outputs([tmp_path / name], [], overwrite=False)
    assert "\0" not in str(error.value)


def test_errors_of_ours_are_no_errors_of_pythons() -> None:
    """`except OSError` around a file would lose their sentence."""
    kinds = HsiError.__subclasses__()
    assert len(kinds) >= 10
    for kind in kinds:
        assert kind.__bases__ == (HsiError,)
    assert HsiError.__bases__ == (Exception,)
