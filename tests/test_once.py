from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from once import Once


def test_a_folder_is_filled_by_the_first_and_awaited_by_others(once: Once) -> None:
    filled: list[Path] = []
    together = Barrier(4, timeout=60)

    def fill(folder: Path) -> None:
        filled.append(folder)
        (folder / "made").write_text("whole")

    def get() -> str:
        together.wait()
        return (once("awaited", fill) / "made").read_text()

    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(get) for _ in range(4)]
        assert [job.result() for job in jobs] == ["whole"] * 4
    assert len(filled) == 1


def test_what_failed_is_tried_again(once: Once) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        once("failing", fail)
    folder = once("failing", lambda folder: (folder / "made").touch())
    assert [path.name for path in folder.iterdir()] == ["made"]
