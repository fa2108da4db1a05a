"""Many scenes in one call: lists, shards, outputs that are already finished."""

import codecs
import contextlib
import logging
import os
import re
import stat
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

from hsi_runtime import machine
from hsi_runtime.engines.backend import CPU_DEVICES, Backend, InTurns
from hsi_runtime.errors import (
    DeviceLostError,
    HsiError,
    OutputError,
    SceneError,
    resource_error,
)
from hsi_runtime.model.model_file import ModelFile
from hsi_runtime.output.journal_folder import was_publishing
from hsi_runtime.output.names import paths_of
from hsi_runtime.output.provenance import SETS_KEY, identity, is_finished
from hsi_runtime.pipeline import run
from hsi_runtime.request import Options, Request
from hsi_runtime.scenes import fingerprint
from hsi_runtime.walk.threads import map_ahead

log = logging.getLogger(__name__)

T = TypeVar("T")

LIST_SUFFIX = ".txt"
MAX_LIST_BYTES, MAX_LISTED = 16_000_000, 100_000  # of a list, and of its scenes
# A small scene waits for the disk as long as it computes; another computes meanwhile.
SMALL_BYTES = 64 * 1024**2
SMALL_AT_ONCE = 2
# Of all scenes together. OpenVINO starts about a second later than onnxruntime, and
# s2vnet makes up for it within 700,000 pixels of 200 bands
# (`benchmarks/cpu_engines.py`).
LARGE_BYTES = 256 * 1024**2
# Names of files that hold the values themselves, and do not only describe them.
WHOLE_SUFFIXES = (".tif", ".tiff", ".bsq", ".bil", ".bip", ".img", ".dat", ".raw")


def expand(scenes: Sequence[Path]) -> list[Path]:
    """Replace list files (``.txt``, one path a line, ``#`` comments) by their scenes.

    A relative path in a list is relative to the list.

    Raises:
        SceneError: A list is unreadable or empty.
    """
    expanded: list[Path] = []
    for path in scenes:
        expanded += _listed(path) if path.suffix.lower() == LIST_SUFFIX else [path]
    return expanded


def _listed(path: Path) -> list[Path]:
    """Read the paths of a list file."""
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe may never end
        raise SceneError(f"The list {path} cannot be read: it is not a regular file.")
    try:
        with path.open("rb") as file:
            content = file.read(MAX_LIST_BYTES + 1)
        # PowerShell writes UTF-16, and says so.
        wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SceneError(f"The list {path} cannot be read: {error}.") from error
    if len(content) > MAX_LIST_BYTES:
        raise SceneError(
            f"The list {path} is larger than {MAX_LIST_BYTES / 1e6:.0f} MB; split it."
        )
    if "\0" in text:
        raise SceneError(f"The list {path} cannot be read: it is not a text file.")
    # Not splitlines(): a name may hold what Unicode calls the end of a line.
    listed: list[str] = []
    for line in re.finditer(r"[^\r\n]+", text):
        name = line.group().strip()
        if name and name[0] != "#":
            listed.append(name)
        if len(listed) > MAX_LISTED:
            raise SceneError(
                f"The list {path} names more than {MAX_LISTED} scenes; split it."
            )
    if not listed:
        raise SceneError(f"The list {path} names no scene.")
    return [path.parent / name for name in listed]


def shard(items: Sequence[T], part: tuple[int, int] | None) -> list[T]:
    """Take every N-th item from the I-th on; the parts of 0..N-1 cover all once."""
    return list(items) if part is None else list(items[part[0] :: part[1]])


def output_of(scene: Path, output: Path | None, many: bool) -> Path:
    """Name the class map of a scene: ``-o``, or a name beside the scene, or in it."""
    if output is not None and not many:
        return output
    # The name of a folder has no suffix, whatever dots it has.
    stem = scene.name if os.path.isdir(scene) else scene.stem
    return (output or scene.parent) / f"{stem}_classes.tif"


def make_requests(
    scenes: Sequence[Path], output: Path | None, options: Options, many: bool
) -> list[Request]:
    """Make one request for each scene.

    Args:
        scenes: What to classify.
        output: Class map, or their folder, or None for beside the scenes.
        options: Options of all scenes.
        many: Whether ``output`` is a folder; a list of scenes may hold just one.

    Raises:
        OutputError: ``-o`` is no folder for many scenes, or two scenes share an output.
    """
    for name in ("vector", "report"):
        if many and getattr(options, name) is not None:
            raise OutputError(f"--{name} names one file; give one scene at a time.")
    if many and output is not None and not output.is_dir():
        raise OutputError(f"{len(scenes)} scenes: -o must be a folder that exists.")
    made = [
        Request(scene, output_of(scene, output, many), **vars(options))
        for scene in scenes
    ]
    taken: dict[Path, Path] = {}
    for request in made:
        key = request.output.parent.resolve() / request.output.name
        if key in taken:
            raise OutputError(
                f"{taken[key]} and {request.scene} would both be written to "
                f"{request.output}; put them into different folders."
            )
        taken[key] = request.scene
    return made


def plan_all(
    requests: Sequence[Request], plan: Callable[[Request], dict[str, Any]]
) -> dict[str, Any]:
    """Plan many scenes; a bad one does not stop the others.

    Args:
        requests: One request for each scene.
        plan: Describes what a run would do.

    Returns:
        ``scenes``: the plan of each, or for a bad one what `run_all` gives.
    """
    plans: list[dict[str, Any]] = []
    for request in requests:
        try:
            plans.append(plan(request))
        except (HsiError, MemoryError, OSError) as error:
            plans.append(_failed(request, error))
    return {"scenes": plans}


def report_all(
    scenes: Sequence[Path], report: Callable[[Path], dict[str, Any]]
) -> dict[str, Any]:
    """Report what many scenes are; a bad one does not stop the others.

    Args:
        scenes: The scenes.
        report: Reports one.

    Returns:
        ``scenes``: the report of each, or for a bad one its error.
    """
    reports: list[dict[str, Any]] = []
    for scene in scenes:
        try:
            reports.append(report(scene))
        except (HsiError, OSError) as error:
            reports.append({"scene": str(scene), **_failure(scene, error)})
    return {"scenes": reports}


def run_all(
    requests: Sequence[Request],
    model: ModelFile,
    start: Callable[[], Backend],
    progress: Callable[[int, int], None] = lambda *_: None,
    done: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """Classify many scenes with one engine; a bad scene does not stop the others.

    Small scenes are classified two at a time once an engine on the CPU runs; their
    results keep the order.

    Nor does a lack of memory or an error of a disk; any other exception is a bug. A
    lost device does: after most errors of CUDA nothing in this process can use the GPU
    again, so an engine started anew would fail, too. Scenes that need it then fail
    untried.

    Args:
        requests: One request for each scene.
        model: A verified model.
        start: Starts the engine; called once, when the first scene needs it.
        progress: Called with finished and all output pixels of the scene at work, where
            it is the only one.
        done: Called with the result of each scene.

    Returns:
        ``scenes``: the result of each, with ``status`` ``done``, ``skipped`` (its
        output was finished before) or ``failed``; and a ``summary``.
    """
    engine, results = _OneEngine(start), list[dict[str, Any]]()
    tried = partial(_tried, model=model, engine=engine)
    waiting = deque(requests)
    while waiting:
        group = [waiting.popleft()]
        if engine.shared_by_scenes and _is_small(group[0]):
            while waiting and _is_small(waiting[0]):
                group.append(waiting.popleft())
        alone = len(group) == 1
        one = partial(tried, progress=progress if alone else _no_progress)
        for _, result in map_ahead(one, group, 1 if alone else SMALL_AT_ONCE):
            results.append(result)
            if result["status"] == "done":
                done(result)
    return summed_up(results)


def summed_up(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the results of many scenes with a summary; see `run_all`."""
    states = [r["status"] for r in results]
    pixels = sum(r["rows"] * r["cols"] for r in results if r["status"] == "done")
    return {
        "scenes": results,
        "summary": {
            **{s: states.count(s) for s in ("done", "skipped", "failed")},
            "pixels": pixels,
            "peak_memory_bytes": machine.peak_bytes(),
        },
    }


class _OneEngine:
    """Starts the engine of all scenes when the first one needs it.

    Args:
        start: Starts it.

    Attributes:
        lost: Whether its device failed.
    """

    def __init__(self, start: Callable[[], Backend]) -> None:
        self._start, self._starting = start, threading.Lock()
        self._engine: InTurns | None = None
        self.lost = False

    def __call__(self) -> Backend:
        """Return the engine.

        Raises:
            DeviceLostError: Its device failed in an earlier scene.
        """
        if self.lost:
            raise DeviceLostError(
                "Not tried: the GPU failed in an earlier scene; repeat the command."
            )
        with self._starting:
            if self._engine is None:
                self._engine = InTurns(self._start())
            return self._engine

    @property
    def shared_by_scenes(self) -> bool:
        """Whether it runs, and several scenes may use it at the same time.

        Not on a GPU: where that fails, one scene should have to be repeated.
        """
        return self._engine is not None and self._engine.device in CPU_DEVICES


def engine_options(requests: Sequence[Request], options: Options) -> dict[str, Any]:
    """Return for what the engine of some scenes is opened; see `open_backend`.

    Which engine of a CPU is faster is not asked for scenes that take less time than the
    other engine's start may cost.
    """
    sizes = (_stored_bytes(request.scene) for request in requests)
    return {
        "tile": options.tile,
        "max_memory_bytes": options.max_memory_bytes,
        "measure": options.engine_may_differ and sum(sizes) >= LARGE_BYTES,
    }


def _stored_bytes(scene: Path) -> int:
    """Return the size of a scene's file; a large one where the data lie elsewhere."""
    if scene.suffix.lower() not in WHOLE_SUFFIXES:
        return LARGE_BYTES
    try:
        return scene.stat().st_size
    except OSError:
        return 0  # reported when the scene is opened


def _is_small(request: Request) -> bool:
    """Return True if a scene takes so little that another may be at work, too."""
    if request.max_memory_bytes is not None:
        return False
    if request.scene.suffix.lower() not in WHOLE_SUFFIXES:  # the data lie elsewhere
        return False
    try:
        status = request.scene.stat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size <= SMALL_BYTES


def _no_progress(done: int, total: int) -> None:
    """Show nothing: two scenes at once would drive one bar to and fro."""


def _tried(
    request: Request,
    model: ModelFile,
    engine: _OneEngine,
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Classify one of many scenes; return its result, whatever became of it."""
    try:
        return run_unless_finished(request, model, engine, progress)
    except (HsiError, MemoryError, OSError) as error:
        engine.lost = engine.lost or isinstance(error, DeviceLostError)
        return _failed(request, error)


def run_unless_finished(
    request: Request,
    model: ModelFile,
    start: Callable[[], Backend],
    progress: Callable[[int, int], None] = _no_progress,
) -> dict[str, Any]:
    """Classify one of many scenes, if that was not done before.

    Raises:
        HsiError: Any of its kinds.
    """
    if not request.overwrite and finished_before(request, model):
        return {**_named(request), "status": "skipped"}
    return {**run(request, model, start, progress), "status": "done"}


def _named(request: Request) -> dict[str, Any]:
    return {"scene": str(request.scene), "output": str(request.output)}


def _failed(
    request: Request, error: HsiError | MemoryError | OSError
) -> dict[str, Any]:
    return {**_named(request), **_failure(request.scene, error)}


def _failure(scene: Path, error: HsiError | MemoryError | OSError) -> dict[str, Any]:
    """Report that a scene failed, now and in the result, with the code it has alone."""
    if not isinstance(error, HsiError):
        error = resource_error(error) or HsiError(f"{type(error).__name__}: {error}")
    log.error(f"{scene}: {error}")
    return {"status": "failed", "error": str(error), "exit_code": error.exit_code}


def finished_before(request: Request, model: ModelFile) -> bool:
    """Return True if a scene has all its outputs, and nothing left to clean up.

    Each output says of what scene and model it is.

    Raises:
        SceneError: The outputs are there, but the scene cannot be read.
    """
    paths = paths_of(request.output)
    outputs = [name for name in request.outputs() if name in paths]
    if request.resume and was_publishing(request.output):
        return False
    if not all(os.path.isfile(paths[name]) for name in outputs):
        return False
    with contextlib.closing(request.open_scene()) as scene:
        content = cache(partial(fingerprint.content_sha256, scene.info))
    request.set_threshold(model.document)  # a level that the model lacks is told
    request.check_training(model.document)
    expected = identity(
        model,
        request.region_text,
        request.threshold(model.document),
        request.tagged,
    )
    level = {SETS_KEY: repr(request.sets)}
    return all(
        is_finished(
            name,
            paths[name],
            {**expected, **level} if name == "sets" else expected,
            content,
        )
        for name in outputs
    )


def exit_code(results: dict[str, Any]) -> int:
    """Return the code of the first failure, or 0.

    A lost device counts before all others: scenes were not tried, so the command must
    be repeated, whatever is wrong with others.
    """
    failed = [r for r in results["scenes"] if r.get("status") == "failed"]
    codes = [int(r["exit_code"]) for r in failed]
    lost = DeviceLostError.exit_code
    return lost if lost in codes else next(iter(codes), 0)
