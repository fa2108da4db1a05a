import errno
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hsi_runtime.engines.nvidia.engine_cache import EngineCache, Key, folder
from hsi_runtime.errors import EngineError, ResourceError

KEY = Key(
    model="ab" * 32,
    tensorrt="tensorrt 11.4.1",
    gpu="Orin",
    compute_capability="8.7",
    profile="1x4x5x5 to 1x4x132x132",
    precision="fp16",
    recipe=1,
)
OTHERS = [
    replace(KEY, model="cd" * 32),
    replace(KEY, tensorrt="tensorrt 10.16.2"),
    replace(KEY, gpu="Thor"),
    replace(KEY, compute_capability="11.0"),
    replace(KEY, profile="1x4x5x5 to 1x4x260x260"),
    replace(KEY, precision="fp32"),
    replace(KEY, recipe=2),
]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "engines"


@pytest.fixture
def cache(place: Path) -> Iterator[EngineCache]:
    opened = EngineCache(place)
    yield opened
    opened.close()


def test_engine_comes_back_for_its_key_only(cache: EngineCache) -> None:
    engines = {key: os.urandom(100) + b"\n{}\n" for key in (KEY, *OTHERS)}
    for key in engines:
        assert cache.load(key)[0] is None
    paths = {cache.store(key, engine) for key, engine in engines.items()}
    assert len(paths) == len(engines)
    for key, engine in engines.items():
        assert cache.load(key) == (engine, "")
    cache.store(KEY, b"newer")
    assert cache.load(KEY) == (b"newer", "")


def test_reason_names_what_changed_since_the_nearest(cache: EngineCache) -> None:
    assert "not used on this machine" in cache.load(KEY)[1]
    cache.store(OTHERS[0], b"of another model")
    assert "not used on this machine" in cache.load(KEY)[1]
    cache.store(replace(KEY, gpu="Thor", precision="fp32"), b"far")
    cache.store(OTHERS[1], b"near")
    _, why = cache.load(KEY)
    assert why == "TensorRT was tensorrt 10.16.2, is tensorrt 11.4.1"


def test_folder_and_files_are_the_owners_alone(cache: EngineCache, place: Path) -> None:
    before = os.umask(0)
    try:
        path = cache.store(KEY, b"engine")
        with cache.alone(KEY):
            pass
    finally:
        os.umask(before)
    assert place.stat().st_mode & 0o777 == 0o700
    assert {p.stat().st_mode & 0o777 for p in place.iterdir()} == {0o600}
    assert path in set(place.iterdir())


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_folder_that_others_can_write_is_refused(place: Path, mode: int) -> None:
    place.mkdir(parents=True)
    place.chmod(mode)
    with pytest.raises(EngineError, match=r"someone else.*XDG_CACHE_HOME"):
        EngineCache(place)


def test_folder_of_another_user_is_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.mkdir(parents=True, mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(EngineError, match="someone else"):
        EngineCache(place)


def test_folder_that_is_a_link_is_refused(place: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    place.parent.mkdir()
    place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EngineError, match=r"cannot be used: .*XDG_CACHE_HOME"):
        EngineCache(place)


def test_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineError, match="cannot be used: Not a directory"):
        EngineCache(tmp_path / "file" / "engines")


def test_file_that_is_not_ours_alone_is_refused(
    cache: EngineCache, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = cache.store(KEY, b"engine")
    path.chmod(0o620)
    with pytest.raises(EngineError, match="someone else"):
        cache.load(KEY)
    path.chmod(0o600)
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        with pytest.raises(EngineError, match="someone else"):
            cache.load(KEY)
    aside = path.rename(tmp_path / "aside")
    path.symlink_to(aside)
    with pytest.raises(EngineError, match="cannot be used"):
        cache.load(KEY)
    path.unlink()
    os.mkfifo(path, 0o600)
    with pytest.raises(EngineError, match="is not a file; remove it"):
        cache.load(KEY)
    # Strangers' files of the same model only explain nothing.
    assert "not used on this machine" in cache.load(OTHERS[1])[1]


def test_damaged_file_is_none(cache: EngineCache) -> None:
    data = cache.store(KEY, b"engine").read_bytes()
    path = cache.path / KEY.name
    for broken in (b"", b"[]\nengine", b"\xff\n", data[:-1], data + b"x", data[9:]):
        path.write_bytes(broken)
        assert cache.load(KEY) == (None, "the one that is there is damaged")
        cache.load(OTHERS[1])
    other = replace(KEY, gpu="Thor")
    os.replace(cache.store(other, b"engine"), path)
    assert cache.load(KEY) == (None, "the one that is there is damaged")


def test_full_disk_leaves_the_old_engine(
    cache: EngineCache, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.store(KEY, b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match=r"No space left.*Make room"):
        cache.store(KEY, b"new")
    assert [p.name for p in place.iterdir()] == [KEY.name]
    assert cache.load(KEY) == (b"old", "")


# What an engine's user does: look, else build alone and keep. Prints what it built.
RACER = """
import sys
from dataclasses import replace
from pathlib import Path
from hsi_runtime.engines.nvidia.engine_cache import EngineCache, Key
cache = EngineCache(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for number in range(8):
    key = Key("ab" * 32, "tensorrt 11", f"GPU {number}", "8.7", "", "fp16", 1)
    with cache.alone(key):
        if cache.load(key)[0] is None:
            print("built", number, flush=True)
            cache.store(key, key.name.encode() * 50_000)
"""
WRITER = """
import sys
from pathlib import Path
from hsi_runtime.engines.nvidia.engine_cache import EngineCache, Key
cache = EngineCache(Path(sys.argv[1]))
key = Key("ab" * 32, "tensorrt 11", "GPU 0", "8.7", "", "fp16", 1)
print("ready", flush=True)
sys.stdin.readline()
for _ in range(100):
    cache.store(key, sys.argv[2].encode() * 300_000)
"""


def start(code: str, *arguments: object) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def go(processes: "list[subprocess.Popen[str]]") -> None:
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()


def test_processes_that_race_build_once(place: Path) -> None:
    racers = [start(RACER, place) for _ in range(3)]
    go(racers)
    said = "".join(racer.communicate(timeout=60)[0] for racer in racers)
    assert sorted(said.splitlines()) == [f"built {n}" for n in range(8)]


def test_waiting_is_told_and_ends(
    cache: EngineCache, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "hsi_runtime")
    entered = threading.Event()

    def wait() -> None:
        with cache.alone(KEY):
            entered.set()

    waiting = threading.Thread(target=wait)
    with cache.alone(KEY):
        assert caplog.text == ""
        waiting.start()
        assert not entered.wait(0.3)
        assert "Another process builds this engine; waiting for it." in caplog.messages
    waiting.join(10)
    assert entered.is_set()


def test_reader_sees_one_engine_or_the_other(place: Path) -> None:
    """Writers race without the lock, as on a disk that has none."""
    key = Key("ab" * 32, "tensorrt 11", "GPU 0", "8.7", "", "fp16", 1)
    cache, seen = EngineCache(place), set()
    cache.store(key, b"a" * 300_000)
    writers = [start(WRITER, place, letter) for letter in "ab"]
    go(writers)
    while any(writer.poll() is None for writer in writers):
        found, why = cache.load(key)
        assert found is not None, why
        seen.add(found)
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    assert seen <= {b"a" * 300_000, b"b" * 300_000}
    assert [p.name for p in place.iterdir()] == [key.name]
    cache.close()


def test_place_follows_the_rules_of_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/mine")
    assert folder() == Path("/var/cache/mine/hsi-edge/engines")
    for unusable in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", unusable)
        assert folder() == Path("/home/someone/.cache/hsi-edge/engines")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # nobody's home
    with pytest.raises(EngineError, match=r"no home folder .*XDG_CACHE_HOME"):
        folder()
