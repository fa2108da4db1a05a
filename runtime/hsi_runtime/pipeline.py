"""The whole way from a scene to its class map: prepare, compute, publish, report."""

import contextlib
import logging
import time
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from numpy.typing import NDArray

from hsi_runtime import machine
from hsi_runtime.engines import choosing
from hsi_runtime.engines.backend import Backend
from hsi_runtime.engines.opening import open_backend
from hsi_runtime.errors import DeviceLostError, VerificationError
from hsi_runtime.matching import novelty
from hsi_runtime.matching.novelty import Comparison, Sums
from hsi_runtime.model.model_file import ModelDocument, ModelFile
from hsi_runtime.output import names, qgis_style, stac
from hsi_runtime.output.journal import Journal, Piece
from hsi_runtime.output.journal_folder import was_publishing
from hsi_runtime.output.layers import Canvas, Counts, Layer
from hsi_runtime.output.publish import convert, place, publish
from hsi_runtime.planning import Job, output_paths, prepare, source_bytes
from hsi_runtime.request import Request
from hsi_runtime.scenes import fingerprint
from hsi_runtime.scenes.fingerprint import ContentHash
from hsi_runtime.scenes.scene import Scene, SceneInfo
from hsi_runtime.walk.decoding import CountedReads
from hsi_runtime.walk.strips import Strip, read_strips
from hsi_runtime.walk.threads import ReadAhead, WriteBehind, in_background
from hsi_runtime.walk.windows import Plan

log = logging.getLogger(__name__)

MAX_BROKEN_SHARE = 0.01  # of pixels whose scores are not finite
T = TypeVar("T")
Progress = Callable[[int, int], None]  # finished and all output pixels


class Stopwatch:
    """Adds up the seconds spent in each stage; stages may overlap."""

    def __init__(self) -> None:
        self.seconds = {"read": 0.0, "infer": 0.0, "write": 0.0}
        self._started = time.monotonic()

    @property
    def total(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    @contextlib.contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Add the time spent inside to a stage."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] += time.monotonic() - started

    def each(self, stage: str, items: Iterator[T]) -> Iterator[T]:
        """Add the time that each item takes to make to a stage."""
        while True:
            with self.time(stage):
                item = next(items, None)
            if item is None:
                return
            yield item


class Results(Protocol):
    """What takes finished pieces: a journal, or the folder of a scene's parts."""

    layers: list[Layer]
    pieces: dict[int, Piece]

    def write(
        self,
        number: int,
        rows: tuple[int, int],
        cols: tuple[int, int],
        values: dict[str, NDArray[Any]],
        counts: Counts,
    ) -> None:
        """Store a finished piece; see `Journal.write`."""


class Precomputed(Protocol):
    """A scene with pieces from elsewhere: it was followed, or computed in parts."""

    @property
    def scene(self) -> Scene:
        """The scene, which is complete now."""

    def content(self, info: SceneInfo) -> ContentHash:
        """Return the hash of the scene's content."""

    def fill(self, job: Job, journal: Journal) -> None:
        """Give a journal the pieces that are there.

        Raises:
            HsiError: They do not suffice.
        """

    def compared(self) -> list[Sums]:
        """Return how some pixels of these pieces compare with training."""

    def check_unchanged(self, job: Job) -> None:
        """Compare what was read with what is there now.

        Raises:
            SceneError: It has changed.
        """


def run(
    request: Request,
    model: ModelFile,
    start: Callable[[], Backend] | None = None,
    progress: Progress = lambda *_: None,
    precomputed: Precomputed | None = None,
) -> dict[str, Any]:
    """Classify a scene.

    Args:
        request: Scene, output and options.
        model: A verified model.
        start: Gives the engine, once the scene has proved usable; by default the
            best that is present.
        progress: Called with finished and all output pixels.
        precomputed: The scene, where it was followed while it was written, or computed
            in parts.

    Returns:
        What ``hsi-run --json`` prints.

    Raises:
        HsiError: Any of its kinds; no output exists then that was not there before.
    """
    watch, paths = Stopwatch(), output_paths(request)
    if request.stac:
        stac.timestamp()  # a wrong clock setting is reported now, not after hours
    opened = precomputed.scene if precomputed else request.open_scene()
    hash_content = precomputed.content if precomputed else ContentHash
    with contextlib.closing(CountedReads(opened)) as scene:
        # Outputs of a run that died while it published them are its own to replace.
        ours = request.resume and was_publishing(request.output)
        check_outputs(request, paths, scene.info, model, ours)
        job = prepare(request, model, scene, start or (lambda: open_backend(model)))
        with job.open_journal() as journal, hash_content(scene.info) as content:
            # Once more under the lock: another run may just have published.
            check_outputs(request, paths, scene.info, model, journal.published)
            resumed = set(journal.pieces)
            if precomputed:
                precomputed.fill(job, journal)
            with _telling_what_is_kept(journal, job.plan):
                compared = compute(job, scene, journal, watch, progress)
            if precomputed and compared:
                for sums in precomputed.compared():
                    compared.include(sums)
            counts = total_counts(job, journal)
            check = precomputed.check_unchanged if precomputed else check_unchanged
            check(job)
            with watch.time("write"), journal.explaining():
                counts = on_output_grid(job, journal, counts)
                publish_outputs(job, journal, counts, job.tags(content.result()))
            journal.remove()
    return {
        **result(job, counts, resumed, watch, scene.decoded_bytes),
        "training_distance": distance(compared, request),
    }


def distance(compared: Comparison | None, request: Request) -> dict[str, Any] | None:
    """Return how far the scene is from training, as JSON has it, and log it."""
    seen = None if compared is None else compared.report()
    if seen is not None:
        sentence, far = novelty.describe(seen)
        level = logging.WARNING if far else logging.INFO
        log.log(level, f"{request.scene.name}: {sentence}")
    return seen


def compute(
    job: Job,
    scene: Scene,
    results: Results,
    watch: Stopwatch,
    progress: Progress,
    others: Collection[int] = (),
) -> Comparison | None:
    """Classify what is not there yet: read ahead, infer, write behind.

    Args:
        job: The run.
        scene: The open scene.
        results: Holds what is finished, and takes the rest.
        watch: Adds up the seconds of each stage.
        progress: Called with finished and all pixels.
        others: Numbers of the pieces that others compute.

    Returns:
        How far what was computed now is from training, if the model can tell.
    """
    training = job.document.training
    compared = None if training is None else Comparison(training)
    region, classifier = job.matched.region, job.classifier
    codes = [c.code for c in job.document.classes]
    pixels = sum(
        _pixels(strip.outputs, panel.outputs)
        for number, (strip, panel) in enumerate(job.plan.pieces())
        if number not in others
    )
    done = sum(_pixels(piece.rows, piece.cols) for piece in results.pieces.values())
    progress(done, pixels)

    def write(strip: Strip, canvas: Canvas) -> None:
        with watch.time("write"):
            results.write(
                strip.number,
                (strip.rows[0] - region.row, strip.rows[1] - region.row),
                (strip.cols[0] - region.col, strip.cols[1] - region.col),
                canvas.values,
                canvas.counts(),
            )

    strips = read_strips(
        scene,
        job.matched.bands.indices,
        job.plan,
        job.document.halo,
        {*results.pieces, *others},
        job.matched.missing,
    )
    timed = watch.each("read", strips)
    with ReadAhead(timed) as ahead, WriteBehind() as behind:
        for strip in ahead:
            canvas = Canvas(results.layers, codes, *strip.shape)
            for square in watch.each("infer", classifier.squares(strip)):
                if square.outputs is not None:
                    canvas.paint(
                        square.row - strip.rows[0],
                        square.col - strip.cols[0],
                        square.outputs,
                        square.valid,
                        job.reject_below,
                    )
                if compared is not None and square.compared is not None:
                    compared.add(*square.compared)
                done += square.valid.size
                progress(done, pixels)
            behind.do(partial(write, strip, canvas))
    return compared


@contextlib.contextmanager
def _telling_what_is_kept(journal: Journal, plan: Plan) -> Iterator[None]:
    """Add to a lost device's message what is kept, so what a rerun costs is known."""
    try:
        yield
    except DeviceLostError as error:
        kept, windows = plan.count_windows(journal.pieces), plan.count_windows()
        raise DeviceLostError(
            f"{error} {kept} of {windows} windows are kept: the same command resumes."
        ) from error


def total_counts(job: Job, journal: Journal) -> Counts:
    """Add up all pieces; refuse a map with many broken scores.

    Raises:
        VerificationError: Too many pixels have no finite score.
    """
    counts = Counts([0] * len(job.document.classes))
    for piece in journal.pieces.values():
        counts.add(piece.counts)
    if counts.broken:
        share = counts.broken / (journal.grid.rows * journal.grid.cols)
        if share > MAX_BROKEN_SHARE:
            journal.remove()
            raise VerificationError(
                f"{share:.1%} of the pixels have no finite score on "
                f"{job.backend.device}; the model's numbers overflow. Use the fp32 "
                "model."
            )
        log.warning(f"{counts.broken} pixels without a finite score became nodata.")
    return counts


def on_output_grid(job: Job, journal: Journal, counts: Counts) -> Counts:
    """Put finished pieces on the grid of the outputs, where that is another.

    Returns:
        Pixels of the class map on that grid.
    """
    table, parts = job.matched.info.placement, (job.matched.ground, job.matched.region)
    if table is None:
        return counts
    codes = [c.code for c in job.document.classes]
    return place(journal, table, job.output_grid, parts, codes)


def publish_outputs(
    job: Job, journal: Journal, counts: Counts, tags: dict[str, str]
) -> None:
    """Make the output files of finished pieces, then give them their names.

    Args:
        job: The run.
        journal: Journal of the finished pieces.
        counts: Pixels of the class map.
        tags: Where the map comes from.

    Raises:
        HsiError: A file cannot be written, or is not what was computed.
    """
    request, document = job.request, job.document
    finished = in_background(lambda: convert(journal, tags, request.compress))
    finished |= _draw(finished["classes"], job, counts, tags)
    if request.stac:
        finished["stac"] = stac.write_item(
            journal.folder,
            job.paths,
            request.outputs(),
            job.output_grid,
            document,
            tags,
        )
    publish(journal, finished, job.paths, request.overwrite)


def _draw(
    made: Path, job: Job, counts: Counts, tags: dict[str, str]
) -> dict[str, Path]:
    """Make what is drawn from the finished class map; return the unpublished files."""
    request, document = job.request, job.document
    drawn = {"qml": made.with_suffix(".qml")}
    qgis_style.write_qml(drawn["qml"], document)
    if request.preview:
        from hsi_runtime.output.preview import write_preview

        drawn["preview"] = made.with_suffix(".png")
        write_preview(made, drawn["preview"], document, counts, tags=tags)
    if request.vector is not None:
        from hsi_runtime.output.polygons import write_polygons

        drawn["vector"] = made.with_suffix(".gpkg")
        limits = request.min_area_m2, request.max_memory_bytes
        write_polygons(made, drawn["vector"], document, *limits)
    return drawn


def result(
    job: Job,
    counts: Counts,
    resumed: set[int],
    watch: Stopwatch,
    decoded_bytes: int = 0,
) -> dict[str, Any]:
    """Report a finished run, as ``hsi-run --json`` prints it.

    Args:
        job: The run.
        counts: Pixels of the class map.
        resumed: Pieces that an earlier run had finished.
        watch: Seconds of each stage.
        decoded_bytes: What was decoded to read the scene.
    """
    request, grid, seconds = job.request, job.output_grid, watch.total
    return {
        "scene": str(request.scene),
        "model": str(job.model.path),
        "output": str(request.output),
        "outputs": {name: str(job.paths[name]) for name in _output_names(request)},
        "method": job.document.method,
        "abundances": job.document.share_meaning if request.abundances else None,
        "rows": grid.rows,
        "cols": grid.cols,
        "pixels": {
            "classified": sum(counts.of_class),
            "unclassified": counts.unclassified,
            "nodata": counts.nodata,
        },
        "classes": _areas(job.document, counts, grid),
        "device": job.backend.device,
        "precision": job.backend.precision,
        "device_choice": choosing.report(job.backend),
        "windows": job.plan.count_windows(),
        "seconds": {"total": seconds, **watch.seconds},
        "pixels_per_second": grid.rows * grid.cols / seconds,
        "peak_memory_bytes": machine.peak_bytes(),
        "resumed_windows": job.plan.count_windows(resumed),
        "decoded_bytes": decoded_bytes,
        "source_bytes": source_bytes(job.matched, job.document.halo),
    }


def _areas(
    document: ModelDocument, counts: Counts, grid: SceneInfo
) -> list[dict[str, Any]]:
    pixel_m2 = None if grid.resolution_m is None else grid.resolution_m**2
    return [
        {
            "code": c.code,
            "name": c.name,
            "pixels": n,
            "area_m2": None if pixel_m2 is None else n * pixel_m2,
        }
        for c, n in zip(document.classes, counts.of_class, strict=True)
    ]


def _output_names(request: Request) -> list[str]:
    return [*request.outputs(), "qml"]


def check_outputs(
    request: Request,
    paths: dict[str, Path],
    info: SceneInfo,
    model: ModelFile,
    ours: bool,
) -> None:
    """Refuse outputs that must not be written.

    Args:
        request: What the user asked for.
        paths: Path of each output by name.
        info: The scene.
        model: The model.
        ours: Whether files under these names are of an earlier attempt of this run.
    """
    names.check_outputs(
        names.files_of(paths, request.outputs()),
        [request.scene, *info.files, model.path],
        request.overwrite or ours,
    )


def check_unchanged(job: Job) -> None:
    """Compare the scene's files with what they were before the run.

    Raises:
        SceneError: One has changed.
    """
    after = fingerprint.of_scene(job.matched.info)
    fingerprint.check_unchanged(job.content, after)


def _pixels(rows: tuple[int, int], cols: tuple[int, int]) -> int:
    return (rows[1] - rows[0]) * (cols[1] - cols[0])
