"""Hands a followed scene over to the pipeline, which publishes it like any other."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hsi_runtime.follow.live.live_map import LiveBlock, LiveMap
from hsi_runtime.follow.sources.growing_file import LAYOUT
from hsi_runtime.follow.sources.source import LineSource
from hsi_runtime.matching.novelty import Comparison, Sums
from hsi_runtime.output.journal import Journal
from hsi_runtime.output.journal_folder import (
    PLAN,
    JournalFolder,
    folder_of,
    was_publishing,
)
from hsi_runtime.output.layers import Canvas
from hsi_runtime.planning import Job, MatchedScene
from hsi_runtime.scenes.fingerprint import ContentHash
from hsi_runtime.scenes.scene import Scene, SceneInfo
from hsi_runtime.walk.windows import completes


@dataclass(frozen=True, kw_only=True)
class Landed:
    """What is known of a scene that was followed, for `pipeline.run`.

    Attributes:
        scene: The scene, now complete.
        source: Its lines.
        live: The live map.
        matched: How the scene was matched while it was followed.
        exact: False if the live map may differ from a batch run's.
        sha256: Hash of the lines.
        comparison: Of some of the lines that were classified with training.
    """

    scene: Scene
    source: LineSource
    live: LiveMap
    matched: MatchedScene
    exact: bool
    sha256: str
    comparison: Comparison | None

    def content(self, info: SceneInfo) -> ContentHash:
        """Return the hash of the scene's content; that of the lines is ready."""
        return ContentHash(info, {info.path: self.sha256})

    def compared(self) -> list[Sums]:
        """Return how some pixels of the lines compare with training."""
        return [] if self.comparison is None else [self.comparison.sums()]

    def check_unchanged(self, job: Job) -> None:
        """Compare some of the lines that were read with what is there now."""
        self.source.check_lines()

    def fill(self, job: Job, journal: Journal) -> None:
        """Give a journal the pieces of the plan whose rows are classified."""
        rows, again = job.matched.region.rows, self.source.durable
        if again and not (self.exact and _same_values(self.matched, job.matched)):
            return
        good = np.zeros(rows, dtype=bool)
        broken: list[LiveBlock] = []
        for block in self.live.blocks:
            # What cannot be read again is final, lost lines included.
            if not again or _holds_at_end(block, rows, job.document.halo):
                good[slice(*block.rows)] = True
                broken += [block] if block.counts.broken else []
        for number, (strip, panel) in enumerate(job.plan.pieces()):
            (top, bottom), cols = strip.outputs, panel.outputs
            if not completes(strip, panel) or number in journal.pieces:
                continue
            if not good[top:bottom].all():
                continue
            canvas = self._canvas(job, (top, bottom), cols)
            counts = canvas.counts()
            while broken and broken[0].rows[0] < bottom:
                counts.broken += broken.pop(0).counts.broken
            journal.write(number, (top, bottom), cols, canvas.values, counts)

    def _canvas(self, job: Job, rows: tuple[int, int], cols: tuple[int, int]) -> Canvas:
        codes = [c.code for c in job.document.classes]
        canvas = Canvas(job.layers, codes, rows[1] - rows[0], cols[1] - cols[0])
        for layer in job.layers:
            values = self.live.read(layer, rows)
            canvas.values[layer.name][:] = values[:, :, slice(*cols)]
        return canvas


def forget_other_end(output: Path, rows: int) -> None:
    """Remove what a dead run left that took fewer lines for all; the live map has them.

    Args:
        output: Path of the class map.
        rows: Rows of the scene now.
    """
    try:
        plan = json.loads((folder_of(output) / PLAN).read_bytes())
        other = plan["region"][2] != rows
    except (OSError, ValueError, LookupError, TypeError):
        return
    if other and not was_publishing(output):
        JournalFolder(output).remove()


def _holds_at_end(block: LiveBlock, rows: int, halo: int) -> bool:
    """Return True if a block is what a batch run of so many rows computes."""
    if block.state != "classified" or block.rows[1] > rows:
        return False
    if block.closed is not None:
        return block.closed == rows
    return block.rows[1] + halo <= rows


def _same_values(before: MatchedScene, after: MatchedScene) -> bool:
    """Return True if a final header left all that decides about values as it was."""
    return all(map(_equal, _deciding(before), _deciding(after)))


def values_digest(matched: MatchedScene, header: Mapping[str, str]) -> str:
    """Return a hash of what the bytes of lines mean, by their header."""
    digest = hashlib.sha256(repr([header.get(key) for key in LAYOUT]).encode())
    for part in (*_deciding(matched), matched.info.frame_counter):
        values = None if part is None else np.asarray(part)
        digest.update(repr(None if values is None else values.shape).encode())
        digest.update(b"" if values is None else values.tobytes())
    return digest.hexdigest()


def _deciding(matched: MatchedScene) -> list[Any]:
    """List all that decides about values, but for the lines themselves."""
    return [
        matched.bands.indices,
        matched.bands.resampling,
        matched.info.nodata,
        matched.missing.largest,
        matched.missing.usual,
        *(
            getattr(matched.units, name)
            for name in ("gain", "offset", "resampling", "model_scale", "model_offset")
        ),
    ]


def _equal(a: object, b: object) -> bool:
    if a is None or b is None:
        return a is b
    return np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True)
