"""Joins the parts of a scene: checks them, then publishes them like any other run."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hsi_runtime import batch, pipeline
from hsi_runtime.engines.backend import Backend
from hsi_runtime.errors import HsiError, OutputError, VerificationError
from hsi_runtime.matching.novelty import Sums
from hsi_runtime.model.model_file import PROBABILITIES, ModelFile
from hsi_runtime.output.journal import Journal
from hsi_runtime.output.journal_folder import was_publishing
from hsi_runtime.parts import attempts, run_report
from hsi_runtime.parts.agreement import digest_of, pieces_of, strips_of, terms_of
from hsi_runtime.parts.computing import places_of
from hsi_runtime.parts.folder import UNCOMPARED, PartsFolder
from hsi_runtime.pipeline import Progress
from hsi_runtime.planning import Job
from hsi_runtime.request import Request
from hsi_runtime.scenes import fingerprint
from hsi_runtime.scenes.fingerprint import ContentHash
from hsi_runtime.scenes.scene import Scene, SceneInfo

NAMED = 5  # faults that a message lists


@dataclass
class RecordedEngine:
    """The engine that computed the parts, of which a join only needs the description.

    So parts of a GPU can be joined where there is none.
    """

    device: str
    precision: str
    windows_at_once: int

    def predict(
        self, cube: NDArray[np.float32], outputs: Sequence[str] = (PROBABILITIES,)
    ) -> dict[str, NDArray[np.float32]]:
        raise AssertionError("a join computes nothing")


@dataclass(frozen=True)
class EarlyHash:
    """The hash of a scene's content, begun before its parts are computed.

    Reading a large scene takes longer than joining its parts.

    Attributes:
        content: The hash.
        before: What identified the scene when it began.
    """

    content: ContentHash
    before: dict[str, Any]

    @classmethod
    def of(cls, request: Request) -> Self:
        """Prepare the hash of a scene; entering `content` begins it.

        Raises:
            SceneError: The scene cannot be read.
        """
        with contextlib.closing(request.open_scene()) as scene:
            return cls(ContentHash(scene.info), fingerprint.of_scene(scene.info))


@dataclass(frozen=True)
class FinishedParts:
    """All parts of a scene, as `pipeline.Precomputed`.

    Attributes:
        scene: The scene.
        folder: The finished pieces.
        plan: What the parts have in common.
        early: Hash of the content, if it was begun before.
    """

    scene: Scene
    folder: PartsFolder
    plan: dict[str, Any]
    early: EarlyHash | None = None

    def content(self, info: SceneInfo) -> ContentHash:
        """Return the hash of the scene's content."""
        if self.early and self.early.before == fingerprint.of_scene(info):
            return self.early.content
        return ContentHash(info)

    def compared(self) -> list[Sums]:
        """Return how some pixels of the parts compare with training."""
        sums = [attempt.compared for attempt in attempts.read(self.folder.path)]
        return [one for one in sums if one is not None]

    def check_unchanged(self, job: Job) -> None:
        """Compare the scene's files with what they were before the join."""
        pipeline.check_unchanged(job)

    def fill(self, job: Job, journal: Journal) -> None:
        """Copy the pieces of all parts, each verified.

        Raises:
            OutputError: Parts are missing, or of another plan.
            VerificationError: Pieces are damaged.
        """
        terms = terms_of(job, self.plan["engine"])
        self.folder.compare(self.plan, terms)
        places, digest = places_of(job), digest_of(terms)
        needed = [number for number in places if number not in journal.pieces]
        missing = set(needed) - self.folder.numbers()
        if missing:
            raise OutputError(self._missing(job, missing))
        faults: list[HsiError] = []
        for number in needed:
            try:
                self.folder.check_terms(number, digest)
            except (OutputError, VerificationError) as error:
                faults.append(error)
        for number in needed if not faults else ():
            try:
                piece, values = self.folder.read(
                    number, digest, places[number], journal.layers
                )
            except VerificationError as error:
                faults.append(error)
                continue
            journal.write(number, piece.rows, piece.cols, values, piece.counts)
        if faults:
            raise _together(faults)

    def _missing(self, job: Job, missing: set[int]) -> str:
        """Name the parts that are missing, or their rows where parts were cut anew."""
        counts = {attempt.part[1] for attempt in attempts.read(self.folder.path)}
        if len(counts) == 1:
            (count,) = counts
            owners = [
                f"{index}/{count}"
                for index in range(count)
                if missing
                & set(pieces_of(job.plan, strips_of(job.plan, (index, count))))
            ]
            what = f"part{'s' * (len(owners) > 1)} {_listed(owners)}"
        else:
            places = places_of(job)
            rows = sorted({places[number][0] for number in missing})
            what = f"rows {_listed([f'{first}-{last - 1}' for first, last in rows])}"
        return (
            f"{self.folder.path} lacks {what} of the scene. Compute what is missing "
            "with --part, then join again."
        )


def is_joined(request: Request, model: ModelFile) -> bool:
    """Return True if a join has finished, or died when it gave files their names.

    Parts would refuse outputs that exist; a join goes on, or finds nothing to do.

    Raises:
        SceneError: The outputs are there, but the scene cannot be read.
    """
    if request.resume and was_publishing(request.output):
        return bool(PartsFolder(request.output).numbers())
    return not request.overwrite and batch.finished_before(request, model)


def join_parts(
    request: Request,
    model: ModelFile,
    start: Callable[[], Backend] | None = None,
    progress: Progress = lambda *_: None,
    early: EarlyHash | None = None,
) -> dict[str, Any]:
    """Publish the outputs of a scene from its parts; no engine is started.

    A join that was killed is repeated, and one that has finished is not done again.

    Args:
        request: Scene, output and options.
        model: A verified model.
        start: Not called; it is there because a run has it.
        progress: Called with finished and all output pixels.
        early: Hash of the scene's content, if it was begun before.

    Returns:
        What ``hsi-run --json`` prints, and ``parts``: what each part took.

    Raises:
        HsiError: Any of its kinds; no output exists then that was not there before.
    """
    folder = PartsFolder(request.output)
    folder.check_own()
    if not request.overwrite and batch.finished_before(request, model):
        named = {"scene": str(request.scene), "output": str(request.output)}
        result: dict[str, Any] = {**named, "status": "skipped"}
    else:
        result = _publish(folder, request, model, progress, early)
    result["parts"] = attempts.accounts(attempts.read(folder.path))
    if request.report is not None and result["parts"]:
        run_report.write(request.report, result)
    folder.remove()
    return result


def _publish(
    folder: PartsFolder,
    request: Request,
    model: ModelFile,
    progress: Progress,
    early: EarlyHash | None,
) -> dict[str, Any]:
    plan = folder.plan()
    if not (request.resume and was_publishing(request.output)):
        run_report.check(request, model)
    folder.check_locks()
    folder.remove_unfinished(folder.numbers())  # the scratch takes their room
    engine = plan["engine"]
    recorded = RecordedEngine(engine["device"], engine["precision"], plan[UNCOMPARED])
    with contextlib.closing(request.open_scene()) as scene:
        parts = FinishedParts(scene, folder, plan, early)
        return pipeline.run(request, model, lambda: recorded, progress, parts)


def _together(faults: list[HsiError]) -> HsiError:
    """Return one error for several pieces, of the kind of the first."""
    return type(faults[0])(_listed([str(fault) for fault in faults], " "))


def _listed(names: list[str], between: str = ", ") -> str:
    more = len(names) - NAMED
    shown = between.join(names[:NAMED])
    return shown if more <= 0 else f"{shown}{between}and {more} more"
