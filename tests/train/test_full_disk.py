"""A disk that is full after so many bytes of a file: a training fails in words."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from full_disk import largest_file

# What is the same each time; others hold times.
SAME = ("checkpoint.safetensors", "split.tif", "confusion.csv", "recipe.toml")


def test_full_disk_leaves_nothing_half_done(
    cli: Callable[..., Any], example: Any, tmp_path: Path
) -> None:
    arguments = (
        *("lda", "--scene", example.scene, "--labels", example.labels, "-q"),
        *("--samples-per-class", "20", "--device", "cpu", "--rivals", "none"),
    )
    whole = tmp_path / "whole"
    assert cli(*arguments, "-o", whole).code == 0
    largest = max(p.stat().st_size for p in whole.iterdir() if p.is_file())
    sizes = random.Random(1)
    failures = 0
    for number in range(20):
        run = tmp_path / str(number)
        with largest_file(sizes.randrange(0, largest)):
            done = cli(*arguments, "-o", run)
        if done.code:
            failures += 1
            assert done.code == 6, done.err
            assert "full" in done.err
            left = {p.name for p in run.iterdir() if p.is_file()} if run.is_dir() else ()
            assert not [name for name in left if name.endswith(".part")]
            for name in set(SAME) & set(left):
                assert (run / name).read_bytes() == (whole / name).read_bytes()
            more = "--resume" if "resume.pt" in left else "--overwrite"
            assert cli(*arguments, "-o", run, more).code == 0
        for name in SAME:
            assert (run / name).read_bytes() == (whole / name).read_bytes()
    assert failures > 5
