"""What this machine has, and the limits of its container.

Linux' control groups, version 1 or 2, lie within each other and all of their limits
hold, so the smallest counts. A file that is missing, cannot be read, or says ``max`` is
no limit.
"""

import operator
import os
import platform
import re
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hsi_runtime.errors import OptionError

MAX_THREADS = 1024  # more than any machine of ours has cores
CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")
CPU_INFO = Path("/proc/cpuinfo")
# For which engines have code of their own, which rounds in its own way.
VECTOR_UNITS = (
    *("avx", "fma", "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16"),
    *("avx512_fp16", "amx_bf16", "amx_int8", "asimd", "asimdhp", "bf16", "i8mm"),
    *("sve", "sve2"),
)


def usable_cores() -> int:
    """Count the cores that this process may use; a container's limit counts."""
    cores = len(os.sched_getaffinity(0))
    return min(cores, container_cpus() or cores)


def engine_threads(threads: int | None) -> int:
    """Return how many threads an engine may use: those requested, or all usable cores.

    Raises:
        OptionError: As many threads are never of use.
    """
    if threads is None:
        return usable_cores()
    return whole_number("threads", threads, MAX_THREADS)


def whole_number(option: str, value: Any, most: int) -> int:
    """Check an option that is a whole number, at least 1.

    Args:
        option: Name of the option in Python.
        value: A whole number of Python or numpy, or what was given in its place.
        most: Largest value of use.

    Raises:
        OptionError: It is none, or out of range.
    """
    try:
        number = operator.index(value)
    except TypeError as error:
        raise OptionError(f"{value!r} is not a whole number.", option) from error
    if not 1 <= number <= most:
        # Python refuses to write numbers of many digits.
        shown = number if number.bit_length() < 64 else "The number"
        raise OptionError(f"{shown} is not in 1..{most}.", option)
    return number


def instruction_set() -> list[str]:
    """Name what decides how engines on this CPU round: its kind and vector units."""
    try:
        text = CPU_INFO.read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        text = ""
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    present = set(flags[1].split()) if flags else set()
    return [platform.machine(), *(unit for unit in VECTOR_UNITS if unit in present)]


def processor() -> str:
    """Name the processor; empty where the system does not say."""
    try:
        text = CPU_INFO.read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return platform.processor()
    name = re.search(r"^(?:model name|CPU part)\s*:(.*)$", text, re.MULTILINE)
    return name[1].strip() if name else ""


def machine_bytes() -> int:
    """Return the memory of this machine, or its container's limit."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(machine, container_memory_bytes() or machine)


def held_bytes() -> int:
    """Return the memory that this process holds, or the most it held if unknown."""
    held = _status_bytes("VmRSS")
    return peak_bytes() if held is None else held


def peak_bytes() -> int:
    """Return the largest memory that this process ever held.

    Linux counts the memory of the program that started this one into ``getrusage``, so
    its own high-water mark is read where there is one.
    """
    high_water = _status_bytes("VmHWM")
    if high_water is not None:
        return high_water
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _status_bytes(key: str) -> int | None:
    """Read a size from Linux' description of this process; None on other systems."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return None
    size = re.search(rf"^{key}:\s+(\d+) kB$", status, re.MULTILINE)
    return None if size is None else int(size[1]) * 1024


def container_cpus() -> int | None:
    """Count the processors that this process may keep busy; None without a limit.

    A part of a processor counts as a whole one.
    """
    limits = []
    for folder in _folders("cpu"):
        first = _numbers(folder / "cpu.cfs_quota_us")
        second = _numbers(folder / "cpu.cfs_period_us")
        for quota in (_numbers(folder / "cpu.max"), first + second):
            if len(quota) == 2 and min(quota) > 0:  # time allowed in each period
                limits.append(-(-quota[0] // quota[1]))
    return min(limits, default=None)


def container_memory_bytes() -> int | None:
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
        lines = OWN_CGROUP.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return
    for line in lines:
        controllers, _, path = line.partition(":")[2].partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        # Version 2 has one tree for all, version 1 one for each controller.
        top = CGROUPS / controller if controllers else CGROUPS
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            yield top.joinpath(*parts[:depth])


def _numbers(path: Path) -> list[int]:
    """Read whole numbers; none where there is no such file, or it says ``max``."""
    try:
        return [int(word) for word in path.read_text(encoding="ascii").split()]
    except (OSError, ValueError):
        return []
