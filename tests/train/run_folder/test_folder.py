"""What a folder may hold before a run begins in it."""

from pathlib import Path

import pytest

from hsi_runtime.errors import OutputError
from hsi_train import recipe
from hsi_train.run_folder import folder
from hsi_train.several import runs, seeds

WANTED = recipe.parse({"method": "lda", "data": {"scenes": ["s"], "labels": ["l"]}})


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_killed_before_its_recipe_had_its_name_is_begun_anew(
    tmp_path: Path, overwrite: bool
) -> None:
    (tmp_path / "recipe.toml.0123abcd.part").write_text("meth")
    folder.check_folder(tmp_path, False, overwrite)
    folder.prepare_folder(tmp_path, WANTED, False, overwrite)
    assert [p.name for p in tmp_path.iterdir()] == ["recipe.toml"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_seeds_killed_before_their_recipe_had_its_name_are_begun_anew(
    tmp_path: Path, overwrite: bool
) -> None:
    (tmp_path / "recipe.toml.0123abcd.part").write_text("meth")
    runs.prepare(tmp_path, WANTED, seeds.KIND, False, overwrite)
    assert [p.name for p in tmp_path.iterdir()] == ["recipe.toml"]


@pytest.mark.parametrize("name", ["notes.part", "thesis.docx.0123abcd.part"])
def test_unfinished_files_of_others_stay(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(OutputError):
            folder.check_folder(tmp_path, False, overwrite)
        with pytest.raises(OutputError):
            runs.prepare(tmp_path, WANTED, seeds.KIND, False, overwrite)
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("x" * 300, "File name too long"),
        ("a\0b", "a\N{REPLACEMENT CHARACTER}b cannot be written: embedded null"),
        ("a\udcff", "a\N{REPLACEMENT CHARACTER} is not UTF-8; choose another -o"),
    ],
)
def test_names_that_no_folder_can_have(tmp_path: Path, name: str, why: str) -> None:
    with pytest.raises(OutputError, match=why):
        folder.check_folder(tmp_path / name, False, False)
