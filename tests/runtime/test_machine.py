"""Limits of containers, on folders that IMITATE those of the system.

They stand for /sys/fs/cgroup, and a file for /proc/self/cgroup.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsi_runtime import machine

GB = 1024**3
NONE_IN_VERSION_1 = 9223372036854771712

Imitate = Callable[[str, dict[str, str]], None]


@pytest.fixture
def imitate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Imitate:
    """Write what the system says of this process's groups, and files of these."""
    monkeypatch.setattr(machine, "CGROUPS", tmp_path / "fs")
    monkeypatch.setattr(machine, "OWN_CGROUP", tmp_path / "own")

    def write(own: str, files: dict[str, str]) -> None:
        (tmp_path / "own").write_text(own)
        for name, content in files.items():
            path = tmp_path / "fs" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)

    return write


@pytest.mark.parametrize(
    ("own", "files", "cpus", "memory_bytes"),
    [
        # docker run --cpus 2 --memory 2g: the container's group is its root.
        (
            "0::/\n",
            {"cpu.max": "200000 100000\n", "memory.max": f"{2 * GB}\n"},
            2,
            2 * GB,
        ),
        ("0::/\n", {"cpu.max": "max 100000\n", "memory.max": "max\n"}, None, None),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2, None),
        ("0::/\n", {"cpu.max": "1000 100000\n"}, 1, None),
        # A pod within a slice within a machine: the smallest of each.
        (
            "0::/pods/one/job\n",
            {
                "cpu.max": "max 100000",
                "pods/cpu.max": "800000 100000",
                "pods/one/cpu.max": "300000 100000",
                "pods/one/job/cpu.max": "400000 100000",
                "pods/memory.max": f"{3 * GB}",
                "pods/one/memory.max": "max",
                "pods/one/job/memory.max": f"{5 * GB}",
                "other/memory.max": f"{GB}",
            },
            3,
            3 * GB,
        ),
        # The path as seen from outside: only the container's root is there.
        (
            "4:memory:/docker/4f\n3:cpu,cpuacct:/docker/4f\n1:name=systemd:/\n0::/\n",
            {
                "cpu/cpu.cfs_quota_us": "250000\n",
                "cpu/cpu.cfs_period_us": "100000\n",
                "memory/memory.limit_in_bytes": f"{GB}\n",
            },
            3,
            GB,
        ),
        (
            "4:memory:/a/b\n3:cpuacct,cpu:/a\n",
            {
                "cpu/cpu.cfs_quota_us": "-1",
                "cpu/cpu.cfs_period_us": "100000",
                "cpu/a/cpu.cfs_quota_us": "50000",
                "cpu/a/cpu.cfs_period_us": "100000",
                "memory/memory.limit_in_bytes": f"{NONE_IN_VERSION_1}",
                "memory/a/memory.limit_in_bytes": f"{2 * GB}",
                "memory/a/b/memory.limit_in_bytes": f"{NONE_IN_VERSION_1}",
            },
            1,
            2 * GB,
        ),
        # Of another process's group, seen from a container.
        ("0::/../other\n", {"cpu.max": "100000 100000"}, 1, None),
        ("", {"cpu.max": "100000 100000", "memory.max": "1"}, None, None),
        ("0::/\n", {"cpu.max": "", "memory.max": "a lot"}, None, None),
        ("0::/\n", {"cpu.max/x": "", "memory.max/x": ""}, None, None),  # unreadable
    ],
)
def test_the_smallest_limit_counts(
    own: str,
    files: dict[str, str],
    cpus: int | None,
    memory_bytes: int | None,
    imitate: Imitate,
) -> None:
    imitate(own, files)
    assert machine.container_cpus() == cpus
    assert machine.container_memory_bytes() == memory_bytes


def test_without_control_groups_there_is_no_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "OWN_CGROUP", tmp_path / "none")
    assert machine.container_cpus() is None
    assert machine.container_memory_bytes() is None


@given(quota=st.integers(1, 10**9), period=st.integers(1_000, 1_000_000))
def test_a_quota_gives_at_least_its_processors(quota: int, period: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "_folders", lambda _: [Path("group")])
        patch.setattr(
            machine,
            "_numbers",
            lambda path: [quota, period] if path.name == "cpu.max" else [],
        )
        found = machine.container_cpus()
    assert found is not None
    assert found >= 1
    assert (found - 1) * period < quota <= found * period


def test_cores_and_memory_are_those_of_the_container(
    imitate: Imitate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    imitate("0::/\n", {"cpu.max": "200000 100000", "memory.max": "12345"})
    assert machine.usable_cores() == 2
    assert machine.machine_bytes() == 12345
    unlimited = {"cpu.max": "max 100000", "memory.max": f"{NONE_IN_VERSION_1}"}
    imitate("0::/\n", unlimited)
    assert machine.usable_cores() == 64
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert machine.machine_bytes() == pages
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5})
    imitate("0::/\n", {"cpu.max": "200000 100000"})
    assert machine.usable_cores() == 1


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("processor\t: 0\nflags\t\t: fpu sse2 avx fma avx2\n", ["avx", "fma", "avx2"]),
        ("Features\t: fp asimd sve aes\n", ["asimd", "sve"]),
        ("flags\t: \n", []),
        (None, []),
    ],
)
def test_instruction_set_names_the_vector_units(
    text: str | None,
    units: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(machine, "CPU_INFO", tmp_path / "cpuinfo")
    assert machine.instruction_set()[1:] == units
