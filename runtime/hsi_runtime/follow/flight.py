"""The whole way of a flight: wait for lines, classify, tell, and publish in the end."""

import contextlib
import importlib.metadata
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hsi_runtime import pipeline
from hsi_runtime.camera.calibration import (
    CalibratedScene,
    Calibration,
    calibration_of,
)
from hsi_runtime.engines.backend import Backend
from hsi_runtime.engines.classifying import Classifier, Compared
from hsi_runtime.engines.opening import best_tile, open_backend
from hsi_runtime.errors import SceneError
from hsi_runtime.follow.blocks import Block, Blocks
from hsi_runtime.follow.exactness import is_exact
from hsi_runtime.follow.landing import Landed, forget_other_end, values_digest
from hsi_runtime.follow.live.events import Alerts, Events, Tell
from hsi_runtime.follow.live.live_map import SUFFIX, LiveMap, State
from hsi_runtime.follow.pace import Pace
from hsi_runtime.follow.sources.growing_hash import GrowingHash, read_states
from hsi_runtime.follow.sources.opening import open_source
from hsi_runtime.follow.sources.source import LineSource
from hsi_runtime.follow.sources.stream import Stream
from hsi_runtime.follow_options.options import Following
from hsi_runtime.matching.novelty import Comparison, Novelty
from hsi_runtime.model.model_file import ModelDocument, ModelFile
from hsi_runtime.output.journal_folder import folder_of, was_publishing
from hsi_runtime.output.layers import Canvas, layers
from hsi_runtime.pipeline import Progress
from hsi_runtime.planning import MatchedScene, match_scene, output_paths
from hsi_runtime.request import Request
from hsi_runtime.scenes.scene import Scene
from hsi_runtime.walk import memory
from hsi_runtime.walk.threads import ReadAhead, WriteBehind

if TYPE_CHECKING:
    from hsi_runtime.follow.live.quick_look import QuickLook

log = logging.getLogger(__name__)

STATES = "classes.states.jsonl"
COMPARED = Compared(every=2, lines=6)  # so few that no block waits for it


@dataclass
class Tally:
    """What a flight was like.

    Attributes:
        blocks: Blocks that were classified.
        skipped: Lines that were skipped to stay live.
        lag_lines: Most lines that waited for a block to be classified.
        lag_s: Longest time from a line to its classes.
        total_s: Sum of these times, over all blocks.
        warned: True if the user knows that the latency is out of reach.
    """

    blocks: int = 0
    skipped: int = 0
    lag_lines: int = 0
    lag_s: float = 0.0
    total_s: float = 0.0
    warned: bool = False

    def add(self, lag_lines: int, lag_s: float) -> None:
        """Take account of a block."""
        self.blocks += 1
        self.total_s += lag_s
        self.lag_lines = max(self.lag_lines, lag_lines)
        self.lag_s = max(self.lag_s, lag_s)

    def report(self) -> dict[str, Any]:
        """Return what ``hsi-run --json`` prints under ``follow``."""
        return {
            "blocks": self.blocks,
            "skipped_lines": self.skipped,
            "most_lag_lines": self.lag_lines,
            "most_lag_ms": 1000 * self.lag_s,
            "mean_lag_ms": 1000 * self.total_s / max(self.blocks, 1),
        }


def follow(
    request: Request,
    model: ModelFile,
    start: Callable[[], Backend] | None = None,
    progress: Progress = lambda *_: None,
    tell: Tell = lambda _: None,
    stop: threading.Event | None = None,
) -> dict[str, Any]:
    """Classify a scene while it is written, and publish its map in the end.

    Args:
        request: Scene, output and options.
        model: A verified model.
        start: Gives the engine; by default the best that is present.
        progress: Called with classified and all pixels that are there.
        tell: Called with a line of JSON for each block.
        stop: Set to take the lines that are there for all.

    Returns:
        What ``hsi-run --json`` prints.

    Raises:
        HsiError: Any of its kinds; what was classified is kept for the next run.
    """
    options = request.follow or Following()
    stop, document = stop or threading.Event(), model.document
    alerts = Alerts(options.on_class, options.command, document.classes)
    source = open_source(request, options)
    with contextlib.closing(source), Events(tell, options.events) as events:
        scene: Scene = source
        calibration = calibration_of(request.references)
        if calibration is not None:
            scene = CalibratedScene(source, calibration)
        ours = request.resume and was_publishing(request.output)
        paths = output_paths(request)
        pipeline.check_outputs(request, paths, scene.info, model, ours)
        matched = match_scene(scene, document, request)
        backend = start() if start else open_backend(model)
        flight = Flight(
            request=request,
            model=model,
            source=source,
            scene=scene,
            calibration=calibration,
            matched=matched,
            backend=backend,
            pace=pace_of(matched, document, backend, request),
            events=events,
            alerts=alerts,
            progress=progress,
            comparison=None
            if document.training is None
            else Comparison(document.training),
        )
        return flight.run(stop)


def pace_of(
    matched: MatchedScene, document: ModelDocument, backend: Backend, request: Request
) -> Pace:
    """Return the pace that suits an engine and the width of a scene.

    Raises:
        ResourceError: The memory allowed is too little.
    """
    info = matched.info
    tile, strip_bytes = memory.tile_and_strip(
        document,
        request.tile,
        request.max_memory_bytes,
        default_tile=best_tile(document, backend.device),
        windows_at_once=backend.windows_at_once,
    )
    line_bytes = info.cols * len(matched.bands.indices) * info.dtype.itemsize
    return Pace(
        halo=document.halo,
        cols=info.cols,
        tile=tile,
        at_once=backend.windows_at_once,
        most=max(strip_bytes // line_bytes - 2 * document.halo, 1),
        latency_s=request.follow.latency_s if request.follow else None,
    )


@dataclass(frozen=True, kw_only=True)
class Flight:
    """One run that follows a source.

    Attributes:
        request: What the user asked for.
        model: Verified model.
        source: Where the lines come from.
        scene: How they are read; the source, or what calibrates it.
        calibration: Of raw counts, or None.
        matched: Scene matched to the model, before its end is known.
        backend: Engine that holds the model.
        pace: How many lines make a block.
        events: Where to tell of blocks.
        alerts: Classes of interest.
        progress: Called with classified and all pixels that are there.
        comparison: Of some of the lines with training, if the model can tell.
        tally: What the flight was like.
    """

    request: Request
    model: ModelFile
    source: LineSource
    scene: Scene
    calibration: Calibration | None
    matched: MatchedScene
    backend: Backend
    pace: Pace
    events: Events
    alerts: Alerts
    progress: Progress
    comparison: Comparison | None
    tally: Tally = field(default_factory=Tally)

    def run(self, stop: threading.Event) -> dict[str, Any]:
        """Fly to the end of the source, then publish."""
        request, source = self.request, self.source
        document = self.model.document
        least = request.set_threshold(document)
        rasters = layers(document, request.outputs(), least)
        exact = self._is_exact()
        states = folder_of(request.output, SUFFIX) / STATES
        proved = None
        if source.durable:
            known = read_states(states) if request.resume else []
            proved = source.rows_before(known[-1].bytes) if known else 0
        live_map = LiveMap(
            request.output,
            rasters,
            self.matched.info.cols,
            self._plan(),
            request.resume,
            proved,
        )
        with live_map as live:
            live.georeference |= source.header_fields
            if not live.blocks:
                states.unlink(missing_ok=True)
            sha256 = self._fly_hashing(live, states, stop)
            if not source.complete:
                raise SceneError(
                    f"{source.path} has no line yet. Start the camera, or give it more "
                    "time with --idle."
                )
            landed = Landed(
                scene=self.scene,
                source=source,
                live=live,
                matched=self.matched,
                exact=exact,
                sha256=sha256,
                comparison=self.comparison,
            )
            self._check_counter()
            forget_other_end(request.output, landed.scene.info.rows)
            with _said_once():
                result = pipeline.run(
                    request, self.model, lambda: self.backend, self.progress, landed
                )
            live.remove()
        result["follow"] = {**self.tally.report(), "dropped_lines": source.dropped}
        self.events.send({"event": "end", "output": result["output"]})
        return result

    def _check_counter(self) -> None:
        """Tell of lost lines; refuse a final header that counts lines otherwise.

        Raises:
            SceneError: A batch run would put in other lines.
        """
        first, last = self.matched.info.frame_counter, self.source.info.frame_counter
        if self.request.frame_counter is None and first != last:
            raise SceneError(
                f"The header of {self.source.path.name} was rewritten with another "
                "frame counter. Repeat the run with --no-resume."
            )
        if self.source.dropped:
            log.warning(
                f"{self.source.dropped} lines of {self.source.path.name} were lost; "
                "they are nodata."
            )

    def _is_exact(self) -> bool:
        """Return True if the engine's answers do not depend on the blocks."""
        pace = self.pace
        shapes = [(n, pace.side(n)) for n in (pace.rows(None), pace.most)]
        shapes.append((pace.tile, pace.tile))
        exact = is_exact(self.model.document, self.backend, shapes)
        if not exact and self.source.durable:
            log.warning(
                f"The engine on {self.backend.device} rounds by the shape of its "
                "windows: all lines are classified once more in the end."
            )
        return exact

    def _fly_hashing(self, live: LiveMap, states: Path, stop: threading.Event) -> str:
        """Classify all lines; return the hash of what was read."""
        source = self.source
        if isinstance(source, Stream):
            if live.blocks and live.blocks[-1].closed is not None:
                source.resume_ended(live.rows)  # only publishing was left to do
            else:
                source.begin(live.rows)
            self._fly(live, lambda: None, stop)
            return source.sha256()
        with GrowingHash(source.path, states) as hashing:
            self._fly(live, lambda: hashing.reach(source.end_byte), stop)
            return hashing.result(source.path.stat().st_size)

    def _fly(
        self, live: LiveMap, watch: Callable[[], None], stop: threading.Event
    ) -> None:
        """Classify block after block, until the source has ended."""
        source, document = self.source, self.model.document
        cols = self.matched.info.cols
        options = self.request.follow or Following()
        blocks = Blocks(
            source,
            self.scene,
            self.matched.bands.indices,
            self.pace,
            stop,
            watch=watch,
            latest=options.latest,
            missing=self.matched.missing,
        )
        codes = [c.code for c in document.classes]
        reject = self.request.threshold(document)
        classifier = Classifier(
            document=document,
            backend=self.backend,
            units=self.matched.units,
            tile=self.pace.tile,
            at_once=self.pace.at_once,
            outputs=sorted({layer.source for layer in live.layers}),
            novelty=Novelty.of_model(document),
            compared=None if self.comparison is None else COMPARED,
        )
        look = self._quick_look(live)
        with ReadAhead(blocks.after(live.rows)) as ahead, WriteBehind() as behind:
            for block in ahead:
                rows = block.rows[1] - block.rows[0]
                canvas = Canvas(live.layers, codes, rows, cols)
                if block.strip is not None:
                    started = time.monotonic()
                    classify = replace(classifier, tile=self.pace.side(rows))
                    for square in classify.squares(block.strip):
                        if self.comparison and square.compared:
                            self.comparison.add(*square.compared)
                        if square.outputs is not None:
                            canvas.paint(
                                square.row - block.rows[0],
                                square.col,
                                square.outputs,
                                square.valid,
                                reject,
                            )
                    self.pace.measured(rows, time.monotonic() - started)
                    self._check_latency()
                behind.do(partial(self._keep, live, look, block, canvas))
                self.progress(block.rows[1] * cols, source.complete * cols)

    def _check_latency(self) -> None:
        """Say once that the latency asked for is out of reach."""
        asked, rate = self.pace.latency_s, self.source.lines_per_second
        if asked is None or not rate or self.tally.warned:
            return
        shortest = self.pace.shortest_s(rate)
        if shortest > asked:
            self.tally.warned = True
            log.warning(
                f"--latency {1000 * asked:.0f}ms is out of reach: at {rate:.0f} lines "
                f"per second the {self.pace.halo} lines of context and the engine take "
                f"{1000 * shortest:.0f} ms."
            )

    def _keep(
        self, live: LiveMap, look: "QuickLook | None", block: Block, canvas: Canvas
    ) -> None:
        """Write a block, then tell of it."""
        state: State = "skipped" if block.strip is None else "classified"
        counts = canvas.counts()
        live.append(block.rows, state, block.closed, canvas.values, counts)
        lag_lines = self.source.complete - block.rows[1]
        lag_s = time.monotonic() - block.written
        if state == "skipped":
            self.tally.skipped += block.rows[1] - block.rows[0]
        else:
            self.tally.add(lag_lines, lag_s)
        codes = [c.code for c in self.model.document.classes]
        self.events.send(
            {
                "event": state,
                "rows": block.rows,
                "lag_lines": lag_lines,
                "lag_ms": round(1000 * lag_s, 1),
                "classes": dict(zip(codes, counts.of_class, strict=True)),
                "unclassified": counts.unclassified,
                "nodata": counts.nodata,
                "dropped": self.source.dropped,
                "skipped": self.tally.skipped,
            }
        )
        if look is not None:
            look.add(canvas.values["classes"][0])
        if state == "classified":
            for event in self.alerts.of(block.rows, counts):
                self.events.send(event)

    def _quick_look(self, live: LiveMap) -> "QuickLook | None":
        if not (self.request.follow and self.request.follow.quick_look):
            return None
        from hsi_runtime.follow.live.quick_look import QuickLook

        look = QuickLook(
            live.folder / "classes.png", live.layers[0], self.matched.info.cols
        )
        for block in live.blocks:
            look.add(live.read(live.layers[0], block.rows)[0])
        return look

    def _plan(self) -> dict[str, Any]:
        """Collect all that the live values depend on, but for the lines themselves."""
        path = self.source.path
        header = {"header": values_digest(self.matched, self.source.header_fields)}
        # Of a file all lines can be classified afresh, of a stream none.
        of_file, of_stream = (header, {}) if self.source.durable else ({}, header)
        return {
            "version": importlib.metadata.version("hsi-edge"),
            "scene": {path.name: {"path": str(path.resolve()), **of_file}},
            **of_stream,
            "model": self.model.sha256,
            "bands": [int(b) for b in self.matched.bands.indices],
            "device": f"{self.backend.device}, {self.backend.precision}",
            "reject": self.request.threshold(self.model.document),
            "sets": self.request.sets,
            "outputs": self.request.outputs(),
            "frame_counter": self.request.frame_counter,
            "scale": self.request.scale,
            "calibration": self.calibration and self.calibration.sha256,
        }


@contextlib.contextmanager
def _said_once() -> Iterator[None]:
    """Drop the messages about scene and model that were given before the flight."""
    logger = logging.getLogger("hsi_runtime.planning")
    logger.addFilter(_nothing)
    try:
        yield
    finally:
        logger.removeFilter(_nothing)


def _nothing(record: logging.LogRecord) -> bool:
    return False
