"""Tells others what happens, while it happens: a line of JSON for each block."""

import contextlib
import json
import logging
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hsi_runtime import files
from hsi_runtime.errors import ModelFileError, OutputError, reason
from hsi_runtime.follow_options.options import Alert
from hsi_runtime.model.model_file import ClassEntry
from hsi_runtime.output.layers import Counts

log = logging.getLogger(__name__)

SOCKET = "unix:"
SEND_S = 0.2  # a reader that takes nothing for so long is left behind

Event = dict[str, Any]
Tell = Callable[[str], None]


class Events:
    """Where the lines go: a caller, a file or a Unix socket; a context manager.

    A reader that goes away ends its own lines only, never the flight.

    Args:
        tell: Called with each line.
        target: File, or ``unix:PATH`` of a socket that somebody listens on.
    """

    def __init__(self, tell: Tell, target: str | None) -> None:
        self._tells: list[Tell] = [tell]
        self._open = contextlib.ExitStack()
        self._target = target

    def __enter__(self) -> Self:
        if self._target is not None:
            with self._open as opening:
                self._tells.append(_opened(self._target, opening))
                self._open = opening.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    def send(self, event: Event) -> None:
        """Tell all of an event."""
        line = json.dumps({"time": time.time(), **event}, allow_nan=False)
        for tell in list(self._tells):
            try:
                tell(line)
            except (OSError, OutputError) as error:
                self._tells.remove(tell)
                log.warning(f"Nobody takes the lines of events any more: {error}.")


def _opened(target: str, stack: contextlib.ExitStack) -> Tell:
    try:
        if target.startswith(SOCKET):
            stream = stack.enter_context(socket.socket(socket.AF_UNIX))
            stream.settimeout(SEND_S)
            stream.connect(target.removeprefix(SOCKET))
            return lambda line: stream.sendall(f"{line}\n".encode())
        file = stack.enter_context(files.open_own(Path(target), "ab"))
        # In one piece: who reads along finds whole lines.
        return lambda line: _write(file.fileno(), f"{line}\n".encode())
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {reason(error)}.") from error


def _write(file: int, data: bytes) -> None:
    if os.write(file, data) < len(data):
        raise OSError("the disk is full")


class Alerts:
    """Classes of interest, and the command to run when one appears.

    Args:
        wanted: Classes and their shares.
        command: Words of a command, run without a shell; none to only tell.
        classes: Classes of the model.

    Raises:
        ModelFileError: The model has no such class.
    """

    def __init__(
        self,
        wanted: Sequence[Alert],
        command: Sequence[str],
        classes: Sequence[ClassEntry],
    ) -> None:
        names = {c.name: index for index, c in enumerate(classes)}
        codes = {str(c.code): index for index, c in enumerate(classes)}
        places = {**codes, **names}
        unknown = [alert.name for alert in wanted if alert.name not in places]
        if unknown:
            raise ModelFileError(
                f"The model has no class {unknown[0]!r}; it has "
                f"{', '.join(c.name for c in classes)}."
            )
        self._wanted = [(places[alert.name], alert.share) for alert in wanted]
        self._classes, self._command = list(classes), list(command)
        self._running: threading.Thread | None = None  # waits for the command

    def of(self, rows: tuple[int, int], counts: Counts) -> list[Event]:
        """Return an event for each class of interest in a block; run the command."""
        pixels = sum(counts.of_class) + counts.unclassified + counts.nodata
        events: list[Event] = []
        for index, least in self._wanted:
            share = counts.of_class[index] / pixels
            if not counts.of_class[index] or share < least:
                continue
            entry = self._classes[index]
            event = {"event": "class", "rows": rows, "code": entry.code}
            event |= {"name": entry.name, "share": share}
            if self._command:
                event["command"] = self._run(event)
            events.append(event)
        return events

    def _run(self, event: Event) -> str:
        """Start the command, unless the last one is still running."""
        if self._running is not None and self._running.is_alive():
            return "busy"
        told = {
            "HSI_CLASS": str(event["name"]),
            "HSI_CODE": str(event["code"]),
            "HSI_ROWS": "{},{}".format(*event["rows"]),
            "HSI_SHARE": repr(event["share"]),
        }
        try:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**os.environ, **told},
            )
        except OSError as error:
            log.warning(f"{self._command[0]} cannot be run: {reason(error)}.")
            self._command = []
            return "failed"
        self._running = threading.Thread(target=process.wait, daemon=True)
        self._running.start()
        return "started"
