"""Computes one part of a scene."""

import contextlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from hsi_runtime import machine, pipeline
from hsi_runtime.engines.backend import Backend
from hsi_runtime.errors import OutputError, VerificationError
from hsi_runtime.model.model_file import ModelFile
from hsi_runtime.output.journal import Piece, piece_of
from hsi_runtime.output.layers import Counts, Layer
from hsi_runtime.parts import attempts
from hsi_runtime.parts.agreement import (
    describe_engine,
    digest_of,
    pieces_of,
    strips_of,
    terms_of,
)
from hsi_runtime.parts.folder import PartsFolder
from hsi_runtime.pipeline import Progress, Stopwatch
from hsi_runtime.planning import Job, output_paths, prepare
from hsi_runtime.request import Request
from hsi_runtime.walk.decoding import CountedReads

log = logging.getLogger(__name__)
Place = tuple[tuple[int, int], tuple[int, int]]


@dataclass
class PartResults:
    """Takes the finished pieces of a part, as `pipeline.Results`.

    Attributes:
        folder: Where they go.
        terms: Hash of what their values depend on.
        layers: Rasters to write.
        pieces: What is finished, by number.
    """

    folder: PartsFolder
    terms: str
    layers: list[Layer]
    pieces: dict[int, Piece] = field(default_factory=dict)

    def write(
        self,
        number: int,
        rows: tuple[int, int],
        cols: tuple[int, int],
        values: dict[str, NDArray[Any]],
        counts: Counts,
    ) -> None:
        """Store a finished piece."""
        planes = (plane for layer in self.layers for plane in values[layer.name])
        piece = piece_of(number, rows, cols, counts=counts, planes=planes)
        self.folder.write(self.terms, piece, self.layers, values)
        self.pieces[number] = piece

    def take_over(self, places: dict[int, Place]) -> None:
        """Take over those of the pieces that are there; a torn one is computed again.

        Args:
            places: Rows and columns by number of the piece.

        Raises:
            OutputError: One is of another plan.
        """
        for number in sorted(self.folder.numbers() & set(places)):
            try:
                piece, _ = self.folder.read(
                    number, self.terms, places[number], self.layers
                )
            except VerificationError as error:
                log.warning(f"{error} It is computed again now.")
                continue
            self.pieces[number] = piece


def places_of(job: Job) -> dict[int, Place]:
    """Return where each piece lies in the outputs, by its number."""
    region = job.matched.region
    pieces = list(job.plan.pieces())
    places = {}
    for number in pieces_of(job.plan):
        (top, bottom), (left, right) = (span.outputs for span in pieces[number])
        rows = top - region.row, bottom - region.row
        places[number] = rows, (left - region.col, right - region.col)
    return places


def compute_part(
    request: Request,
    model: ModelFile,
    start: Callable[[], Backend],
    progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Classify the strips of one part, and keep them until all parts are joined.

    Args:
        request: Scene, output, part and options.
        model: A verified model.
        start: Gives the engine, once the scene has proved usable.
        progress: Called with finished and all pixels of the part.

    Returns:
        What ``hsi-run --part --json`` prints.

    Raises:
        HsiError: Any of its kinds.
    """
    assert request.part is not None
    watch, folder = Stopwatch(), PartsFolder(request.output)
    with contextlib.closing(CountedReads(request.open_scene())) as scene:
        outputs = request, output_paths(request), scene.info, model
        pipeline.check_outputs(*outputs, ours=False)
        job = prepare(request, model, scene, start)
        terms = terms_of(job, describe_engine(job.backend))
        folder.agree(terms, job.backend.windows_at_once)
        try:
            # Once more: a join may just have published, and removed the folder.
            pipeline.check_outputs(*outputs, ours=False)
        except OutputError:
            folder.remove_plan()
            raise
        strips = strips_of(job.plan, request.part)
        own = set(pieces_of(job.plan, strips))
        results = PartResults(folder, digest_of(terms), job.layers)
        worker = f"{os.uname().nodename}:{os.getpid()}"
        with folder.explaining():
            record = attempts.Record(folder.path, request.part, worker)
        folder.remove_unfinished(own)
        if request.resume:
            places = {n: place for n, place in places_of(job).items() if n in own}
            results.take_over(places)
        resumed = set(results.pieces)
        every = range(sum(1 for _ in job.plan.pieces()))
        others = set(every) - own
        compared = None
        if own - resumed:
            compared = pipeline.compute(job, scene, results, watch, progress, others)
        folder.sync(own - resumed)
        pipeline.check_unchanged(job)
        # Another part may have begun at the same moment, and have written its plan.
        folder.compare(folder.plan(), terms)
    pixels = _pixels(results, own - resumed)
    with folder.explaining():
        record.finish(watch.total, pixels, compared.sums() if compared else None)
    index, count = request.part
    return {
        "scene": str(request.scene),
        "model": str(model.path),
        "output": str(request.output),
        "part": f"{index}/{count}",
        "parts_folder": str(folder.path),
        "strips": len(strips),
        "pixels": pixels,
        "resumed_pixels": _pixels(results, resumed),
        "device": job.backend.device,
        "precision": job.backend.precision,
        "windows": job.plan.count_windows(own),
        "resumed_windows": job.plan.count_windows(resumed),
        "attempt": attempts.count(folder.path, request.part),
        "worker": worker,
        "seconds": {"total": watch.total, **watch.seconds},
        "pixels_per_second": pixels / watch.total,
        "peak_memory_bytes": machine.peak_bytes(),
        "decoded_bytes": scene.decoded_bytes,
        "training_distance": pipeline.distance(compared, request),
    }


def _pixels(results: PartResults, numbers: set[int]) -> int:
    pieces = [results.pieces[number] for number in numbers]
    return sum((p.rows[1] - p.rows[0]) * (p.cols[1] - p.cols[0]) for p in pieces)
