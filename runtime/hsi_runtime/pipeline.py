"""The whole way from a scene to its class map, on one screen."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from hsi_runtime import machine, planning
from hsi_runtime.engines.backend import CPU_DEVICES, Backend
from hsi_runtime.engines.opening import open_backend, predict_in_parts
from hsi_runtime.errors import DeviceLostError, VerificationError
from hsi_runtime.model.model_file import ModelDocument, ModelFile
from hsi_runtime.output import layers as class_map
from hsi_runtime.output import names, provenance, qgis_style, stac
from hsi_runtime.output.journal import Journal
from hsi_runtime.output.journal_folder import was_publishing
from hsi_runtime.output.layers import Canvas, Counts
from hsi_runtime.output.publish import convert, publish
from hsi_runtime.planning import Prepared, match_scene, prepare
from hsi_runtime.request import Request
from hsi_runtime.scenes import fingerprint
from hsi_runtime.scenes.opening import open_scene
from hsi_runtime.scenes.scene import Scene, SceneInfo, valid_pixels
from hsi_runtime.walk.regions import grid_of
from hsi_runtime.walk.strips import Strip, cut, read_strips
from hsi_runtime.walk.threads import ReadAhead, WriteBehind, in_background, map_ahead
from hsi_runtime.walk.windows import Plan, tiles

log = logging.getLogger(__name__)

MAX_BROKEN_SHARE = 0.01  # of pixels whose scores are not finite
T = TypeVar("T")


class Stopwatch:
    """Adds up the seconds spent in each stage; stages may overlap."""

    def __init__(self) -> None:
        self.seconds = {"read": 0.0, "infer": 0.0, "write": 0.0}

    @contextlib.contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Put what happens inside on a stage's account."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] += time.monotonic() - started

    def each(self, stage: str, items: Iterator[T]) -> Iterator[T]:
        """Put the making of every item on a stage's account."""
        while True:
            with self.time(stage):
                item = next(items, None)
            if item is None:
                return
            yield item


def run(
    request: Request,
    model: ModelFile,
    start: Callable[[], Backend] | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, Any]:
    """Classify a scene.

    Args:
        request: Scene, output and options.
        model: A verified model.
        start: Gives the engine, once the scene has proved usable; by default the
            best that is present.
        progress: Called with finished and all output pixels.

    Returns:
        What ``hsi-run --json`` prints.

    Raises:
        HsiError: Any of its kinds; no output exists then that was not there before.
    """
    started, watch = time.monotonic(), Stopwatch()
    document, wanted = model.document, request.wanted()
    paths = names.paths_of(request.output)
    if request.vector is not None:
        paths["vector"] = request.vector
    reject = request.threshold(document)
    if request.stac:
        stac.timestamp()  # a wrong clock setting is told now, not after hours
    scene = open_scene(request.scene)
    check_outputs = partial(
        names.check_outputs,
        [paths[w] for w in (*wanted, "qml")],
        [request.scene, *scene.info.files, model.path],
    )
    try:
        # Outputs of a run that died while it published them are its own to replace.
        ours = request.resume and was_publishing(request.output)
        check_outputs(request.overwrite or ours)
        matched = match_scene(scene, document, request)
        backend = start() if start else open_backend(model)
        prepared = prepare(
            scene.info, matched, document, request, backend.device, backend.windows
        )
        if backend.precision == "fp16" and backend.device in CPU_DEVICES:
            log.warning(
                "The model is in half precision, which a CPU computes in float32; the "
                "float32 file is as fast and more exact."
            )
        before = fingerprint.of_scene(scene.info)
        grid = grid_of(scene.info, prepared.region)
        layers = class_map.layers(document, wanted)
        tags = provenance.provenance(
            model,
            scene.info,
            fingerprint.content_sha256(before),
            (backend.device, backend.precision),
            prepared.match.method,
            request.part,
            reject,
        )
        engine = f"{backend.device}, {backend.precision}"
        plan = planning.dependencies(
            model, before, prepared, engine, reject, [x.name for x in layers]
        )
        with Journal(request.output, grid, layers, plan, request.resume) as scratch:
            # Once more under the lock: another run may just have published.
            check_outputs(request.overwrite or scratch.published)
            resumed = set(scratch.pieces)
            with _telling_what_is_kept(scratch, prepared.plan):
                _classify(
                    scene, prepared, document, backend, reject, scratch, watch, progress
                )
            counts = _total(scratch, document, backend)
            fingerprint.check_unchanged(before, fingerprint.of_scene(scene.info))
            with watch.time("write"), scratch.explaining():
                finished = in_background(
                    lambda: convert(scratch, tags, request.compress)
                )
                finished |= _draw(finished["classes"], request, paths, document, counts)
                if request.stac:
                    finished["stac"] = stac.write_item(
                        scratch.folder, paths, wanted, grid, document, tags
                    )
                publish(scratch, finished, paths, request.overwrite)
            scratch.remove()
    finally:
        scene.close()
    total = time.monotonic() - started
    return {
        "scene": str(request.scene),
        "model": str(model.path),
        "output": str(request.output),
        "outputs": {w: str(paths[w]) for w in (*wanted, "qml")},
        "method": document.method,
        "rows": grid.rows,
        "cols": grid.cols,
        "pixels": {
            "classified": sum(counts.of_class),
            "unclassified": counts.unclassified,
            "nodata": counts.nodata,
        },
        "classes": _areas(document, counts, grid),
        "device": backend.device,
        "precision": backend.precision,
        "windows": prepared.plan.windows(),
        "seconds": {"total": total, **watch.seconds},
        "pixels_per_second": grid.rows * grid.cols / total,
        "peak_memory_bytes": machine.peak_bytes(),
        "resumed_windows": prepared.plan.windows(resumed),
    }


def _classify(
    scene: Scene,
    prepared: Prepared,
    document: ModelDocument,
    backend: Backend,
    reject_below: float,
    scratch: Journal,
    watch: Stopwatch,
    progress: Callable[[int, int], None],
) -> None:
    """Walk the scene: read ahead, infer, write behind."""
    plan, region = prepared.plan, prepared.region
    codes = [c.code for c in document.classes]
    outputs = sorted({layer.source for layer in scratch.layers})
    total = region.rows * region.cols
    done = sum(_pixels(p.rows, p.cols) for p in scratch.pieces.values())
    progress(done, total)
    strips = read_strips(
        scene, prepared.match.indices, plan, document.halo, set(scratch.pieces)
    )
    timed = watch.each("read", strips)
    with ReadAhead(timed) as ahead, WriteBehind() as behind:
        for strip in ahead:
            canvas = Canvas(scratch.layers, codes, *_shape(strip))
            found_squares = squares(
                strip, prepared, document, scene.info, backend, outputs, watch
            )
            for row, col, found, inner in found_squares:
                if found is not None:
                    canvas.paint(row, col, found, inner, reject_below)
                done += inner.size
                progress(done, total)

            def write(strip: Strip = strip, canvas: Canvas = canvas) -> None:
                with watch.time("write"):
                    scratch.write(
                        strip.number,
                        (strip.rows[0] - region.row, strip.rows[1] - region.row),
                        (strip.cols[0] - region.col, strip.cols[1] - region.col),
                        canvas.values,
                        canvas.counts(),
                    )

            behind.do(write)


@contextlib.contextmanager
def _telling_what_is_kept(scratch: Journal, plan: Plan) -> Iterator[None]:
    """Say it where the device is lost, so that the user knows what a rerun costs."""
    try:
        yield
    except DeviceLostError as error:
        raise DeviceLostError(
            f"{error} {plan.windows(scratch.pieces)} of {plan.windows()} windows are "
            "kept: the same command resumes."
        ) from error


def squares(
    strip: Strip,
    prepared: Prepared,
    document: ModelDocument,
    info: SceneInfo,
    backend: Backend,
    outputs: list[str],
    watch: Stopwatch | None = None,
) -> Iterator[tuple[int, int, Any, Any]]:
    """Classify a strip square by square.

    Yields:
        Row and column within the strip's outputs; each of the model's outputs by name,
        ``(class, row, col)``, or None where no pixel has data; and the mask of pixels
        with data.
    """
    watch = watch or Stopwatch()
    halo, tile = document.halo, prepared.plan.tile
    fill = np.array(document.values.fill, dtype=np.float32)[:, None, None]
    with watch.time("infer"):
        valid = valid_pixels(strip.cube, info.nodata[prepared.match.indices])
    size = info.rows, info.cols

    def windows_with_data() -> Iterator[tuple[int, int, Any, Any]]:
        for rows, cols in product(tiles(strip.rows, tile), tiles(strip.cols, tile)):
            cube, known = cut(strip, valid, rows, cols, halo, size)
            inner = known[halo : known.shape[0] - halo, halo : known.shape[1] - halo]
            values = None
            if inner.any():
                values = prepared.units.apply(cube)
                if not known.all():
                    values = np.where(known, values, fill)
            yield rows[0] - strip.rows[0], cols[0] - strip.cols[0], values, inner

    def classify(window: tuple[int, int, Any, Any]) -> Any:
        values = window[2]
        if values is None:
            return None
        batch = predict_in_parts(backend, values[None], halo, outputs)
        return {name: values[0] for name, values in batch.items()}

    answers = map_ahead(classify, windows_with_data(), backend.windows)
    for (row, col, _, inner), found in watch.each("infer", answers):
        yield row, col, found, inner


def _draw(
    made: Path,
    request: Request,
    paths: dict[str, Path],
    document: ModelDocument,
    counts: Counts,
) -> dict[str, Path]:
    """Make what is drawn from the finished class map; return the unpublished files."""
    drawn = {"qml": made.with_suffix(".qml")}
    qgis_style.write_qml(drawn["qml"], document)
    if request.preview:
        from hsi_runtime.output.preview import write_preview

        drawn["preview"] = made.with_suffix(".png")
        write_preview(made, drawn["preview"], document, counts)
    if request.vector is not None:
        from hsi_runtime.output.polygons import write_polygons

        # Beside its place, which may be on another disk than the map.
        drawn["vector"] = paths["vector"].with_name(
            f".{paths['vector'].stem}.part.gpkg"
        )
        write_polygons(made, drawn["vector"], document, request.min_area_m2)
    return drawn


def _total(scratch: Journal, document: ModelDocument, backend: Backend) -> Counts:
    """Add up all pieces; refuse a map with many broken scores."""
    counts = Counts([0] * len(document.classes))
    for piece in scratch.pieces.values():
        counts.add(piece.counts)
    if counts.broken:
        share = counts.broken / (scratch.grid.rows * scratch.grid.cols)
        if share > MAX_BROKEN_SHARE:
            scratch.remove()
            raise VerificationError(
                f"{share:.1%} of the pixels have no finite score on {backend.device}; "
                "the model's numbers overflow. Use the fp32 model."
            )
        log.warning(f"{counts.broken} pixels without a finite score became nodata.")
    return counts


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


def _shape(strip: Strip) -> tuple[int, int]:
    return strip.rows[1] - strip.rows[0], strip.cols[1] - strip.cols[0]


def _pixels(rows: tuple[int, int], cols: tuple[int, int]) -> int:
    return (rows[1] - rows[0]) * (cols[1] - cols[0])
