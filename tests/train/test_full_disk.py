"""A disk that is full after so many bytes of a file: a training fails in words."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from full_disk import largest_file

# What is the same each time; others hold times.
SAME = ("checkpoint.safetensors", "split.tif", "confusion.csv", "recipe.toml")


@pytest.mark.parametrize("times", [4, pytest.param(20, marks=pytest.mark.soak)])
@pytest.mark.timeout(1800)
def test_full_disk_leaves_nothing_half_done(
    cli: Callable[..., Any], example: Any, tmp_path: Path, times: int
) -> None:
    arguments = (
        *("lda", "--scene", example.scene, "--labels", example.labels, "-q"),
        *("--samples-per-class", "20", "--device", "cpu", "--rivals", "none"),
    )
    whole = tmp_path / "whole"
    assert cli(*arguments, "-o", whole).code == 0
    largest = max(p.stat().st_size for p in whole.iterdir() if p.is_file())
    # The message itself is a file here, too.
    random_sizes = [random.Random(n).randrange(400, largest) for n in range(times - 1)]
    failures = 0
    for number, size in enumerate([400, *random_sizes]):
        run = tmp_path / str(number)
        with largest_file(size):
            done = cli(*arguments, "-o", run)
        if done.code:
            failures += 1
            assert done.code == 6, done.err
            assert "full" in done.err
            left = (
                {p.name for p in run.iterdir() if p.is_file()} if run.is_dir() else ()
            )
            assert not [name for name in left if name.endswith(".part")]
            for name in set(SAME) & set(left):
                assert (run / name).read_bytes() == (whole / name).read_bytes()
            more = ["--resume"] if "resume.pt" in left else ["--overwrite"] * bool(left)
            assert cli(*arguments, "-o", run, *more).code == 0
        for name in SAME:
            assert (run / name).read_bytes() == (whole / name).read_bytes()
    assert failures > times // 3
