"""Makes what is costly once for a whole test run, also in parallel."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

Once = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Return a folder that is filled only once, by whichever worker comes first.

    ``once("trained", fill)`` calls ``fill(folder)`` and returns the folder. Other calls
    with this name wait until it is filled, in other workers, too. Tests only read it.
    """
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # each worker has a folder in that of the run

    def get(name: str, fill: Callable[[Path], None]) -> Path:
        folder = base / "once" / name
        folder.parent.mkdir(exist_ok=True)
        finished = folder.with_suffix(".finished")
        with folder.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not finished.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of one who failed
                folder.mkdir()
                fill(folder)
                finished.touch()
        return folder

    return get
