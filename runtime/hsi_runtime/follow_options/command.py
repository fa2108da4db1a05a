"""The options of hsi-run that belong to --follow."""

import math
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
SECONDS = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600}


def seconds(
    context: click.Context, option: click.Parameter, value: str | None
) -> float | None:
    """Parse a time such as ``100ms``, ``10s`` or ``5m``; ``never`` is infinite."""
    if value is None:
        return None
    if value == "never" and option.name == "idle_s":
        return math.inf
    time = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|min|h)", value.strip())
    if time is None:
        raise click.BadParameter(f"{value!r} is not a time such as 100ms or 10s.")
    return float(time[1]) * SECONDS[time[2]]


def two_numbers(
    context: click.Context, option: click.Parameter, value: str | None
) -> tuple[int, int] | None:
    """Parse two whole numbers, ``A,B``."""
    if value is None:
        return None
    try:
        first, second = (int(part) for part in value.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not two whole numbers.") from error
    return first, second


def alerts(
    context: click.Context, option: click.Parameter, given: tuple[str, ...]
) -> tuple[tuple[str, float | None], ...]:
    """Parse ``NAME`` or ``NAME=SHARE``."""
    parsed: list[tuple[str, float | None]] = []
    for value in given:
        name, equals, share = value.rpartition("=")
        if not equals:
            parsed.append((value, None))
            continue
        try:
            parsed.append((name, float(share)))
        except ValueError as error:
            raise click.BadParameter(
                f"{value!r} is not NAME or NAME=SHARE with a number."
            ) from error
    return tuple(parsed)


def words(
    context: click.Context, option: click.Parameter, value: str | None
) -> tuple[str, ...]:
    """Split a command into its words, as a shell would."""
    try:
        return tuple(shlex.split(value or ""))
    except ValueError as error:
        raise click.BadParameter(f"{value!r} has a quote that is open.") from error


OPTIONS = (
    click.option(
        "--follow",
        is_flag=True,
        help="Classify a scene while a camera writes it: ENVI, BIL or BIP. SIGINT and "
        "SIGTERM end it with the lines that are there.",
    ),
    click.option(
        "--latency",
        "latency_s",
        metavar="TIME",
        callback=seconds,
        help="With --follow: time from a line to its classes, such as 100ms.  "
        "[default: the smallest blocks that are efficient]",
    ),
    click.option(
        "--idle",
        "idle_s",
        metavar="TIME",
        callback=seconds,
        help="With --follow: a scene that does not grow for so long is complete; or "
        "never.  [default: 10s]",
    ),
    click.option(
        "--latest",
        is_flag=True,
        help="With --follow: where the engine is behind, skip lines to stay live; they "
        "are classified in the end.",
    ),
    click.option(
        "--events",
        metavar="FILE|unix:PATH",
        help="With --follow: also write the JSON line of each block to a file or a "
        "Unix socket.",
    ),
    click.option(
        "--quick-look",
        is_flag=True,
        help="With --follow: draw a PNG that grows, in the folder of the live map.",
    ),
    click.option(
        "--on-class",
        multiple=True,
        metavar="NAME[=SHARE]",
        callback=alerts,
        help="With --follow: tell when a class has this share of a block; repeat.  "
        "[default: 0.01]",
    ),
    click.option(
        "--exec",
        "command",
        metavar="COMMAND",
        callback=words,
        help="With --on-class: run this command then.",
    ),
    click.option(
        "--shape",
        metavar="COLS,BANDS",
        callback=two_numbers,
        help="With --follow: size of the raw lines of stdin (SCENE is -) or a FIFO.",
    ),
    click.option("--dtype", help="With --shape: type of the values, such as uint16."),
    click.option("--interleave", help="With --shape: bil or bip."),
    click.option(
        "--header",
        type=click.Path(path_type=Path),
        help="With --follow: ENVI header of stdin, a FIFO or a ring, for wavelengths.",
    ),
)


CAMERA_OPTIONS = (
    click.option(
        "--dark",
        type=click.Path(path_type=Path),
        help="Raster of lines without light, of a camera that stores raw counts.",
    ),
    click.option(
        "--white",
        type=click.Path(path_type=Path),
        help="Raster of lines of a white panel, of the same camera.",
    ),
    click.option(
        "--gain",
        type=click.Path(path_type=Path),
        help="Raster of one line that counts are multiplied by, for each column and "
        "band; in place of --dark and --white.",
    ),
    click.option(
        "--offset",
        type=click.Path(path_type=Path),
        help="With --gain: raster of one line that is added then.",
    ),
    click.option(
        "--frame-counter",
        metavar="COL,BAND",
        callback=two_numbers,
        help="Pixel and band, from 0, of each line's number; missing lines become "
        "nodata.",
    ),
)


def follow_options(command: F) -> F:
    """Add the options of a camera and of --follow to a command."""
    for option in reversed((*CAMERA_OPTIONS, *OPTIONS)):
        command = option(command)
    return command


def taken(options: dict[str, Any]) -> dict[str, Any]:
    """Replace the options of --follow by ``follow``, as Python's door has it.

    Raises:
        OptionError: They contradict each other, or lack ``--follow``.
    """
    from hsi_runtime.follow_options.options import NAMES, Alert, following_of

    own = {name: options[name] for name in NAMES}
    own["on_class"] = tuple(
        Alert(name) if share is None else Alert(name, share)
        for name, share in own["on_class"]
    )
    others = {k: v for k, v in options.items() if k not in NAMES}
    return others | {"follow": following_of(options["follow"], own)}


def check_alone(
    scenes: tuple[Path, ...],
    output: Path | None,
    shard: tuple[int, int] | None,
    other: bool,
) -> None:
    """Refuse what cannot be done while one scene is followed."""
    if len(scenes) != 1 or scenes[0].suffix.lower() == ".txt" or shard is not None:
        raise click.UsageError("--follow takes one scene.")
    if str(scenes[0]) == "-" and output is None:
        raise click.UsageError("The lines of stdin have no name; give -o.")
    if other:
        raise click.UsageError(
            "--follow excludes --dry-run, --describe, --self-test and --benchmark."
        )
