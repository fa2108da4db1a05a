"""A camera that writes lines as they would come: into a file, a FIFO or a ring.

The lines of a simulated scene are repeated back and forth, so that a flight may last
for hours; a pixel may hold the number of its frame. A line is due by the clock. Between
the clock and the file lie jitter, stalls that are caught up, and frames that are
dropped.
"""

import os
import random
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from hsi_runtime.errors import OutputError, reason
from hsi_runtime.files import write_text
from hsi_runtime.follow.sources.ring import RingShape, RingWriter
from hsi_runtime.output.names import check_outputs
from hsi_train.simulate.files import ENVI_TYPES, Layout, envi_header
from hsi_train.simulate.sensor import Sensor
from hsi_train.simulate.spec import SceneSpec

Target = Literal["file", "fifo", "shm"]
RING_SLOTS = 1024
AXES = {"bil": (1, 0, 2), "bip": (1, 2, 0)}
Send = Callable[[bytes], None]


@dataclass(frozen=True, kw_only=True)
class Camera:
    """How the lines come.

    Attributes:
        lines_per_second: Speed of the clock; 0 writes as fast as possible.
        jitter: Standard deviation of the delay of a line, in line periods.
        stalls: Stalls per second.
        stall_s: Duration of a stall.
        drops: Share of the frames that is dropped.
        counter: Column and band of the frame's number, or None.
        promised: ``lines`` of the first header.
        cycle: Lines that are simulated; then they are repeated backwards.
        seed: Seed of all that is random.
    """

    lines_per_second: float = 250.0
    jitter: float = 0.0
    stalls: float = 0.0
    stall_s: float = 0.2
    drops: float = 0.0
    counter: tuple[int, int] | None = None
    promised: int = 0
    cycle: int = 512
    seed: int = 0


def fly(
    spec: SceneSpec,
    path: Path,
    layout: Layout,
    target: Target,
    camera: Camera,
    stop: threading.Event,
    times: Path | None = None,
    overwrite: bool = False,
) -> int:
    """Write the lines of a scene as they are due; return how many were written.

    Args:
        spec: The scene; its rows are the frames of the flight.
        path: Data file, FIFO or file in shared memory; a header goes beside it.
        layout: ``bil`` or ``bip``.
        target: What ``path`` is.
        camera: How the lines come.
        stop: Ends the flight.
        times: File that gets the time of each line, float64, seconds since 1970.
        overwrite: Whether existing files may be replaced.

    Raises:
        OutputError: A file exists, or cannot be written.
    """
    if layout not in AXES:
        raise OutputError(f"A camera writes lines, bil or bip, not {layout}.")
    header = path.with_suffix(".hdr")
    outputs = [header] + [path] * (target != "fifo" or not path.exists())
    outputs += [] if times is None else [times]
    check_outputs(outputs, [], overwrite)
    lines = _Lines(spec, layout, camera)
    written = 0
    try:
        write_text(header, _header(spec, layout, camera.promised))
        with ExitStack() as stack:
            send = _opened(stack, path, target, spec, layout)
            clock = stack.enter_context(times.open("wb")) if times else None
            for frame in _due(spec.rows, camera, stop):
                send(lines.of(frame))
                written += 1
                if clock is not None:
                    clock.write(struct.pack("<d", time.time()))
    except BrokenPipeError:
        pass  # whoever read the FIFO has gone
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {reason(error)}.") from error
    write_text(header, _header(spec, layout, written))
    return written


class _Lines:
    """The bytes of every frame: a few simulated lines, back and forth."""

    def __init__(self, spec: SceneSpec, layout: Layout, camera: Camera) -> None:
        rows = min(camera.cycle, spec.rows)
        cube, _, _ = Sensor(msgspec.structs.replace(spec, rows=rows)).window(0, rows)
        values: NDArray[np.generic] = cube.transpose(AXES[layout])
        self._lines = np.ascontiguousarray(values)
        self._counter, self._bil = camera.counter, layout == "bil"

    def of(self, frame: int) -> bytes:
        """Return the bytes of a frame, with its number where one is wanted."""
        last = len(self._lines) - 1
        place = frame % (2 * last) if last else 0
        line = self._lines[min(place, 2 * last - place)]
        if self._counter is not None:
            col, band = self._counter
            line = line.copy()
            top = 2**16 if line.dtype.kind == "u" else 2**15
            line[(band, col) if self._bil else (col, band)] = frame % top
        data: bytes = line.tobytes()
        return data


def _due(frames: int, camera: Camera, stop: threading.Event) -> Iterator[int]:
    """Yield the number of each frame that is not dropped, when it is due."""
    chance = random.Random(camera.seed)
    started, held = time.monotonic(), 0.0
    period = 1 / camera.lines_per_second if camera.lines_per_second else 0.0
    for frame in range(frames):
        if camera.stalls and chance.random() < camera.stalls * period:
            held = time.monotonic() + camera.stall_s
        late = abs(chance.gauss(0, camera.jitter)) * period if camera.jitter else 0.0
        moment = max(started + frame * period + late, held)
        wait = moment - time.monotonic()
        if stop.wait(wait) if wait > 0 else stop.is_set():
            return
        if not (camera.drops and chance.random() < camera.drops):
            yield frame


def _header(spec: SceneSpec, layout: Layout, lines: int) -> str:
    return envi_header(spec, layout).replace(
        f"\nlines = {spec.rows}\n", f"\nlines = {lines}\n"
    )


def _opened(
    stack: ExitStack, path: Path, target: Target, spec: SceneSpec, layout: Layout
) -> Send:
    if target == "shm":
        bands, kind = len(spec.wavelengths_nm), ENVI_TYPES[spec.dtype]
        shape = RingShape(spec.cols, bands, kind, layout, RING_SLOTS)
        return stack.enter_context(RingWriter(path, shape)).write
    if target == "fifo" and not path.exists():
        os.mkfifo(path)
    file: IO[bytes] = stack.enter_context(path.open("wb", buffering=0))

    def send(line: bytes) -> None:
        view = memoryview(line)
        while view:
            view = view[file.write(view) :]

    return send
