"""What a container may use: limits of Linux' control groups, version 1 or 2.

Groups lie within each other and all of their limits hold, so the smallest counts. A
file that is missing, cannot be read, or says ``max`` is no limit.
"""

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


def cpus() -> int | None:
    """Count the processors that this process may keep busy; None without a limit.

    A part of a processor counts as a whole one.
    """
    found = []
    for folder in _folders("cpu"):
        first = _numbers(folder / "cpu.cfs_quota_us")
        second = _numbers(folder / "cpu.cfs_period_us")
        for quota in (_numbers(folder / "cpu.max"), first + second):
            if len(quota) == 2 and min(quota) > 0:  # time allowed in each period
                found.append(-(-quota[0] // quota[1]))
    return min(found, default=None)


def memory_bytes() -> int | None:
    """Memory that this process may hold; None without a limit.

    Version 1 says that there is none by a number beyond any machine.
    """
    names = "memory.max", "memory.limit_in_bytes"
    files = [folder / name for folder in _folders("memory") for name in names]
    return min((n for f in files for n in _numbers(f) if n > 0), default=None)


def _folders(controller: str) -> Iterator[Path]:
    """Name the folders of this process's groups, the innermost first.

    In a container the path may be that from outside; then only the root exists, and it
    is the container's own group.
    """
    try:
        lines = OWN.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return
    for line in lines:
        controllers, _, path = line.partition(":")[2].partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        # Version 2 has one tree for all, version 1 one for each controller.
        top = ROOT / controller if controllers else ROOT
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            yield top.joinpath(*parts[:depth])


def _numbers(path: Path) -> list[int]:
    """Read whole numbers; none where there is no such file, or it says ``max``."""
    try:
        return [int(word) for word in path.read_text(encoding="ascii").split()]
    except (OSError, ValueError):
        return []
