"""The options of a simulated camera, which belong to --live."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from hsi_runtime import command_line
from hsi_train.simulate.files import Layout
from hsi_train.simulate.live import Camera, Target, fly
from hsi_train.simulate.spec import SceneSpec

F = TypeVar("F", bound=Callable[..., Any])


def frame_counter(
    context: click.Context, option: click.Parameter, value: str | None
) -> tuple[int, int] | None:
    """Parse ``COL,BAND``, from 0."""
    if value is None:
        return None
    try:
        col, band = (int(part) for part in value.split(","))
    except ValueError as error:
        raise click.BadParameter(
            f"{value!r} is not COL,BAND, two whole numbers."
        ) from error
    if min(col, band) < 0:
        raise click.BadParameter(f"{value!r} holds a negative number.")
    return col, band


NUMBER = click.FloatRange(min=0)
OPTIONS = (
    click.option(
        "--live", is_flag=True, help="Be a camera: write line by line, by the clock."
    ),
    click.option(
        "--lines-per-second",
        type=NUMBER,
        default=250.0,
        show_default=True,
        help="Speed of the camera; 0: as fast as possible.",
    ),
    click.option(
        "--target",
        type=click.Choice(get_args(Target)),
        default="file",
        show_default=True,
        help="What PATH is: a file, a FIFO, or a ring in shared memory.",
    ),
    click.option(
        "--jitter",
        type=NUMBER,
        default=0.0,
        help="Standard deviation of a line's delay, in line periods.",
    ),
    click.option("--stalls", type=NUMBER, default=0.0, help="Stalls per second."),
    click.option(
        "--stall-seconds",
        "stall_s",
        type=NUMBER,
        default=0.2,
        show_default=True,
        help="Duration of a stall; what was due then comes at once.",
    ),
    click.option(
        "--drops",
        type=click.FloatRange(0, 1),
        default=0.0,
        help="Share of the frames that is dropped.",
    ),
    click.option(
        "--frame-counter",
        "counter",
        metavar="COL,BAND",
        callback=frame_counter,
        help="Write the frame's number into a pixel.",
    ),
    click.option(
        "--promise",
        "promised",
        type=click.IntRange(min=0),
        default=0,
        help="Lines of the first header; the last one has the true count.",
    ),
    click.option(
        "--cycle",
        type=click.IntRange(min=1),
        default=512,
        show_default=True,
        help="Lines to simulate; then they come backwards.",
    ),
    click.option(
        "--times",
        type=click.Path(path_type=Path),
        help="Write the time of each line, float64, seconds since 1970.",
    ),
)
NAMES = (
    *("lines_per_second", "jitter", "stalls", "stall_s", "drops", "counter"),
    *("promised", "cycle"),
)


def live_options(command: F) -> F:
    """Add the options of a camera to a command."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def run(
    spec: SceneSpec,
    path: Path,
    layout: Layout,
    overwrite: bool,
    options: dict[str, Any],
) -> None:
    """Be a camera until all lines are written, or a signal ends the flight."""
    camera = Camera(seed=spec.seed, **{name: options[name] for name in NAMES})
    kind: Layout = "bil" if layout.startswith("tiff") else layout
    _check_counter(spec, camera)
    with command_line.orderly_stop() as stop:
        fly(
            spec,
            path,
            kind,
            options["target"],
            camera,
            stop,
            times=options["times"],
            overwrite=overwrite,
        )


def _check_counter(spec: SceneSpec, camera: Camera) -> None:
    if camera.counter is None:
        return
    col, band = camera.counter
    if col >= spec.cols or band >= len(spec.wavelengths_nm):
        raise click.UsageError(
            f"--frame-counter {col},{band} lies outside {spec.cols} columns and "
            f"{len(spec.wavelengths_nm)} bands."
        )
