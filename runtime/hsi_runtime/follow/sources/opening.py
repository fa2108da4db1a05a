"""Opens what a sensor writes: a growing file, a pipe, or a ring in shared memory."""

import os
import stat
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from hsi_runtime.camera.frames import SURE_LINES, FrameCounter
from hsi_runtime.errors import OptionError, SceneError
from hsi_runtime.follow.sources.framed import FramedFile
from hsi_runtime.follow.sources.growing_file import GrowingFile, line_layout
from hsi_runtime.follow.sources.ring import MAGIC, RingReader, RingShape
from hsi_runtime.follow.sources.source import LineSource
from hsi_runtime.follow.sources.stream import Feed, PipeFeed, RingFeed, Stream, counted
from hsi_runtime.follow_options.options import Following
from hsi_runtime.request import Request
from hsi_runtime.scenes.envi import describe
from hsi_runtime.scenes.envi_files import header_beside
from hsi_runtime.scenes.envi_header import DTYPES, Header, Layout, read_header

STDIN = "-"


def open_source(request: Request, options: Following) -> LineSource:
    """Open the source of a request.

    Raises:
        OptionError: The lines of a stream are not described, or a file's are.
        SceneError: The source cannot be used.
    """
    path = request.scene
    described = (options.shape, options.dtype, options.interleave, options.header)
    ring = _is_ring(path)
    if str(path) == STDIN or ring or _is_fifo(path):
        return _stream(request, options, RingReader(path) if ring else None)
    if any(part is not None for part in described):
        raise OptionError(
            "It describes the lines of stdin, a FIFO or a ring; a file has its header.",
            "shape" if options.shape else "header",
        )
    file = GrowingFile(path, options.idle_s)
    counter = request.frame_counter or file.info.frame_counter
    return file if counter is None else FramedFile(file, counter)


def _stream(request: Request, options: Following, ring: RingReader | None) -> Stream:
    """Open a source whose lines come once."""
    path = request.scene
    header, layout = _described(path, options, ring.shape if ring else None)
    name = Path("stdin") if str(path) == STDIN else path
    info = describe(header, name, layout)
    real = tuple(f for f in info.files if f.is_file() and f != path)
    info = replace(info, driver="stream", files=real)
    feed: Feed = PipeFeed(path, layout.strides[0]) if ring is None else RingFeed(ring)
    counter = request.frame_counter or info.frame_counter
    if counter is None:
        return Stream(info, layout, feed, options.idle_s, header)
    col, band = counter
    frames = FrameCounter(info, counter)
    line = replace(layout, offset=0)

    def lost(values: bytes) -> int:
        missing = frames.lost(int(line.cube(values)[band, 0, col]))
        frames.check(SURE_LINES)
        return missing

    feed = counted(feed, lost)
    return Stream(info, layout, feed, options.idle_s, header, frames.check)


def _described(
    path: Path, options: Following, ring: RingShape | None
) -> tuple[Header, Layout]:
    """Describe the lines of a stream by options, a ring's header, an ENVI header.

    Raises:
        OptionError: Something is missing.
        SceneError: Two of them contradict each other.
    """
    place = options.header
    if place is None and str(path) != STDIN:
        place = header_beside(path)
    header = Header(Path("the options"), {}) if place is None else read_header(place)
    fields = dict(header.fields)
    fields.setdefault("byte order", "0" if sys.byteorder == "little" else "1")
    for key, value in _given(options, ring).items():
        if key in header.fields and header.fields[key].lower() != value:
            raise SceneError(
                f"{header.path} says that {key} is {header.fields[key]}, the "
                f"{'ring' if ring else 'options'} say {value}. Correct one of them."
            )
        fields[key] = value
    for key, option in (
        ("samples", "shape"),
        ("bands", "shape"),
        ("data type", "dtype"),
        ("interleave", "interleave"),
    ):
        if key not in fields:
            raise OptionError(
                f"The {key} of the lines are not known; give --shape, --dtype and "
                "--interleave, or --header.",
                option,
            )
    fields |= {"header offset": "0", "lines": "1"}
    whole = Header(header.path, fields)
    return whole, line_layout(whole)


def _given(options: Following, ring: RingShape | None) -> dict[str, str]:
    if ring is not None:
        return {
            "samples": str(ring.cols),
            "bands": str(ring.bands),
            "data type": str(ring.data_type),
            "interleave": ring.interleave,
        }
    given: dict[str, str] = {}
    if options.shape is not None:
        given |= {"samples": str(options.shape[0]), "bands": str(options.shape[1])}
    if options.dtype is not None:
        names = {np.dtype(code).name: number for number, code in DTYPES.items()}
        given["data type"] = names[options.dtype]
    if options.interleave is not None:
        given["interleave"] = options.interleave
    return given


def _is_fifo(path: Path) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except OSError:
        return False


def _is_ring(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC
