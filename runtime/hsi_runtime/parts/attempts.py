"""Records of the attempts at parts, so that those that died are counted, too."""

import contextlib
import secrets
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec

from hsi_runtime import files
from hsi_runtime.matching.novelty import Sums


class Attempt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One attempt at a part.

    Attributes:
        part: I, from 0, of N.
        worker: Host and process.
        started: When it began, seconds since 1970 by the clock of the folder's file
            system, which all machines share.
        done: False while it is at work, and for ever if it died.
        seconds: How long it took.
        pixels: Pixels that it computed.
        compared: Comparison of some of them with training, where the model can tell.
    """

    part: tuple[int, int]
    worker: str
    started: float = 0.0
    done: bool = False
    seconds: float = 0.0
    pixels: int = 0
    compared: Sums | None = None


class Record:
    """The record of an attempt that is at work.

    Args:
        folder: Folder of the parts.
        part: I, from 0, of N.
        worker: Host and process.

    Raises:
        OSError: It cannot be written.
    """

    def __init__(self, folder: Path, part: tuple[int, int], worker: str) -> None:
        name = f"{_prefix(part)}{secrets.token_hex(8)}.attempt"
        self._path, self._attempt = folder / name, Attempt(part, worker)
        self._write()
        started = self._path.stat().st_mtime
        self._attempt = msgspec.structs.replace(self._attempt, started=started)

    def finish(self, seconds: float, pixels: int, compared: Sums | None) -> None:
        """Note that the part is finished.

        Args:
            seconds: How long it took.
            pixels: Pixels that it computed.
            compared: Comparison of some of them with training.

        Raises:
            OSError: It cannot be written.
        """
        self._attempt = msgspec.structs.replace(
            self._attempt,
            done=True,
            seconds=seconds,
            pixels=pixels,
            compared=compared,
        )
        self._write()

    def _write(self) -> None:
        files.write_bytes(self._path, msgspec.json.encode(self._attempt))


def count(folder: Path, part: tuple[int, int]) -> int:
    """Count the attempts at a part, without reading their records."""
    return sum(1 for _ in folder.glob(f"{_prefix(part)}*.attempt"))


def read(folder: Path) -> list[Attempt]:
    """Read the records of all attempts; one that is torn is left out.

    An attempt that has not finished began when its record was written.
    """
    attempts = []
    for path in sorted(folder.glob("*.attempt")):
        with contextlib.suppress(OSError, msgspec.DecodeError):
            attempt = msgspec.json.decode(path.read_bytes(), type=Attempt)
            if not attempt.done:
                started = path.stat().st_mtime
                attempt = msgspec.structs.replace(attempt, started=started)
            attempts.append(attempt)
    return attempts


def accounts(attempts: Iterable[Attempt]) -> list[dict[str, Any]]:
    """Sum up what each part took: its attempts, and the one that computed most."""
    ordered = sorted(attempts, key=lambda a: (a.part[1], a.part[0], a.done, a.pixels))
    rows = []
    for (index, total), group in groupby(ordered, key=lambda attempt: attempt.part):
        tries = list(group)
        last = tries[-1]
        rate = last.pixels / last.seconds if last.seconds else 0.0
        rows.append(
            {
                "part": f"{index}/{total}",
                "attempts": len(tries),
                "worker": last.worker,
                "seconds": last.seconds,
                "pixels": last.pixels,
                "pixels_per_second": rate,
                "tries": [
                    {
                        key: value
                        for key, value in msgspec.to_builtins(one).items()
                        if key not in ("part", "compared")
                    }
                    for one in sorted(tries, key=lambda attempt: attempt.started)
                ],
            }
        )
    return rows


def _prefix(part: tuple[int, int]) -> str:
    return "{}-{}.".format(*part)
