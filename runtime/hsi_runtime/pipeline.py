"""The whole way from a scene to its class map, on one screen."""

import logging
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hsi_runtime import class_map, windows
from hsi_runtime.backends import Backend, open_backend
from hsi_runtime.bands import BandMatch, match_bands
from hsi_runtime.errors import VerificationError
from hsi_runtime.model_file import ModelDocument, ModelFile
from hsi_runtime.preview import write_preview
from hsi_runtime.scene import Cube, Scene, open_scene, valid_pixels
from hsi_runtime.units import Conversion, conversion
from hsi_runtime.windows import Plan, mirror, mirrored_extent, tiles

log = logging.getLogger(__name__)

MAX_BROKEN_SHARE = 0.01  # of pixels whose scores are not finite


@dataclass(frozen=True)
class Request:
    """What the user asked of one scene.

    Attributes:
        scene: Input.
        output: Class map; further files are named after it.
        device: See `hsi_runtime.backends.open_backend`.
        threads: Of the engine, or None.
        tile: Side of the squares that are classified at once.
        reject_below: Smallest probability of a class, or None for the model's own.
        confidence: Also write the best probability.
        probabilities: Also write all probabilities.
        preview: Also write a PNG.
        overwrite: Replace what is there.
    """

    scene: Path
    output: Path
    device: str = "auto"
    threads: int | None = None
    tile: int = windows.DEFAULT_TILE
    reject_below: float | None = None
    confidence: bool = False
    probabilities: bool = False
    preview: bool = False
    overwrite: bool = False


class Prepared(NamedTuple):
    """A scene matched to a model, and the plan to walk it."""

    match: BandMatch
    units: Conversion
    plan: Plan


class Strip(NamedTuple):
    """A piece of the scene in memory.

    Attributes:
        cube: Stored units, shape ``(band, row, col)``.
        row: Scene row of its first row.
        col: Scene column of its first column.
        rows: Output rows it completes.
        cols: Output columns it completes.
    """

    cube: Cube
    row: int
    col: int
    rows: tuple[int, int]
    cols: tuple[int, int]


class Stopwatch:
    """Adds up the seconds spent in each stage."""

    def __init__(self) -> None:
        self.seconds = {"read": 0.0, "infer": 0.0, "write": 0.0}

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Put what happens inside on a stage's account."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] += time.monotonic() - started

    def each(self, stage: str, items: Iterator["Strip"]) -> Iterator["Strip"]:
        """Put the making of every item on a stage's account."""
        while True:
            with self.time(stage):
                item = next(items, None)
            if item is None:
                return
            yield item


def prepare(scene: Scene, document: ModelDocument, tile: int) -> Prepared:
    """Match a scene to a model and plan the walk; say what the user should know.

    Raises:
        BandMismatchError: The scene lacks what the model needs.
    """
    info, bands = scene.info, document.bands
    match = match_bands(info, bands.wavelengths_nm, bands.source_count, bands.used)
    units = conversion(info, match.indices, document.values)
    for sentence in (*info.notes, *match.warnings, *units.warnings):
        log.warning(sentence)
    if info.transform is None:
        log.warning(f"{info.path.name} has no georeference; neither has its class map.")
    plan = windows.plan(
        info.rows,
        info.cols,
        len(match.indices) * info.dtype.itemsize,
        info.block,
        document.halo,
        tile,
    )
    return Prepared(match, units, plan)


def run(
    request: Request,
    model: ModelFile,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, Any]:
    """Classify a scene.

    Args:
        request: Scene, output and options.
        model: A verified model.
        progress: Called with finished and all output pixels.

    Returns:
        What ``hsi-run --json`` prints.

    Raises:
        HsiError: Any of its kinds; no output exists then that was not there before.
    """
    started, watch = time.monotonic(), Stopwatch()
    document = model.document
    paths = class_map.paths_of(request.output)
    wanted = ["classes"]
    wanted += ["confidence"] if request.confidence else []
    wanted += ["probabilities"] if request.probabilities else []
    wanted += ["preview"] if request.preview else []
    scene = open_scene(request.scene)
    try:
        class_map.check_outputs(
            [paths[w] for w in wanted],
            [request.scene, *scene.info.files, model.path],
            request.overwrite,
        )
        prepared = prepare(scene, document, request.tile)
        backend = open_backend(model, request.device, request.threads)
        reject = request.reject_below
        reject = document.reject_below if reject is None else reject
        layers = class_map.layers(document, wanted)
        tags = class_map.provenance(model, scene.info, backend.device)
        codes = [c.code for c in document.classes]
        with class_map.Scratch(
            request.output, scene.info, layers, codes, tags
        ) as scratch:
            counts = _classify(
                scene, prepared, document, backend, reject, scratch, watch, progress
            )
            with watch.time("write"):
                finished = scratch.convert()
                if request.preview:
                    finished["preview"] = finished["classes"].with_suffix(".png")
                    write_preview(
                        finished["classes"], finished["preview"], document, counts
                    )
                scratch.publish(finished, paths)
    finally:
        scene.close()
    info = scene.info
    area = None if info.resolution_m is None else info.resolution_m**2
    total = time.monotonic() - started
    return {
        "scene": str(request.scene),
        "model": str(model.path),
        "output": str(request.output),
        "outputs": {w: str(paths[w]) for w in wanted},
        "method": document.method,
        "rows": info.rows,
        "cols": info.cols,
        "pixels": {
            "classified": int(sum(counts.of_class)),
            "unclassified": counts.unclassified,
            "nodata": counts.nodata,
        },
        "classes": [
            {
                "code": c.code,
                "name": c.name,
                "pixels": int(n),
                "area_m2": None if area is None else float(n) * area,
            }
            for c, n in zip(document.classes, counts.of_class, strict=True)
        ],
        "device": backend.device,
        "precision": document.precision,
        "windows": prepared.plan.windows(),
        "seconds": {"total": total, **watch.seconds},
        "pixels_per_second": info.rows * info.cols / total,
        "peak_memory_bytes": peak_memory_bytes(),
        "resumed_windows": 0,
    }


@dataclass
class Counts:
    """Pixels of the class map."""

    of_class: NDArray[np.int64]
    unclassified: int = 0
    nodata: int = 0
    broken: int = 0


def _classify(
    scene: Scene,
    prepared: Prepared,
    document: ModelDocument,
    backend: Backend,
    reject_below: float,
    scratch: "class_map.Scratch",
    watch: Stopwatch,
    progress: Callable[[int, int], None],
) -> Counts:
    """Walk the scene; write every strip to the scratch files."""
    info, indices = scene.info, prepared.match.indices
    counts = Counts(np.zeros(len(document.classes), dtype=np.int64))
    nodata = info.nodata[indices]
    fill = np.array(document.values.fill, dtype=np.float32)[:, None, None]
    done, total = 0, info.rows * info.cols
    halo, tile = document.halo, prepared.plan.tile
    strips = read_strips(scene, indices, prepared.plan, halo)
    for strip in watch.each("read", strips):
        valid = valid_pixels(strip.cube, nodata)
        for rows, cols in product(tiles(strip.rows, tile), tiles(strip.cols, tile)):
            cube, known = _cut(strip, valid, rows, cols, halo, info)
            inner = known[halo : known.shape[0] - halo, halo : known.shape[1] - halo]
            found = None
            if inner.any():
                with watch.time("infer"):
                    values = np.where(known, prepared.units.apply(cube), fill)
                    found = backend.predict(values[None])[0]
            with watch.time("write"):
                scratch.write(rows, cols, found, inner, reject_below, counts)
            done += inner.size
            progress(done, total)
    if counts.broken:
        share = counts.broken / total
        if share > MAX_BROKEN_SHARE:
            raise VerificationError(
                f"{share:.1%} of the pixels have no finite score on {backend.device}; "
                "the model's numbers overflow. Use the fp32 model."
            )
        log.warning(f"{counts.broken} pixels without a finite score became nodata.")
    return counts


def read_strips(
    scene: Scene, bands: NDArray[np.intp], plan: Plan, halo: int
) -> Iterator[Strip]:
    """Read a scene piece by piece, each file block once per panel."""
    info = scene.info
    for panel in plan.panels:
        cols = mirrored_extent(panel[0] - halo, panel[1] + halo, info.cols)
        kept: Cube | None = None
        first = 0  # scene row of the first row in memory
        for strip in plan.strips:
            fresh = scene.read(strip.read, cols, bands)
            cube = fresh if kept is None else np.concatenate([kept, fresh], axis=1)
            del fresh
            if strip.outputs[1] > strip.outputs[0]:
                yield Strip(cube, first, cols[0], strip.outputs, panel)
            keep_from = max(strip.outputs[1] - halo, 0)
            kept = cube[:, keep_from - first :].copy()
            first = keep_from
            del cube


def _cut(
    strip: Strip,
    valid: NDArray[np.bool_],
    rows: tuple[int, int],
    cols: tuple[int, int],
    halo: int,
    info: Any,
) -> tuple[Cube, NDArray[np.bool_]]:
    """Cut outputs with their context out of a strip, mirrored at the scene's edge."""
    row_index = mirror(rows[0] - halo, rows[1] + halo, info.rows) - strip.row
    col_index = mirror(cols[0] - halo, cols[1] + halo, info.cols) - strip.col
    if rows[0] >= halo and rows[1] + halo <= info.rows:
        row_slice: Any = slice(row_index[0], row_index[-1] + 1)
    else:
        row_slice = row_index
    if cols[0] >= halo and cols[1] + halo <= info.cols:
        col_slice: Any = slice(col_index[0], col_index[-1] + 1)
    else:
        col_slice = col_index
    cube = strip.cube[:, row_slice][:, :, col_slice]
    return cube, valid[row_slice][:, col_slice]


def peak_memory_bytes() -> int:
    """Largest memory this process ever held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
