"""The options of hsi-run that belong to parts, and what they start."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hsi_runtime import option_values as values
from hsi_runtime.errors import OptionError

if TYPE_CHECKING:
    from hsi_runtime.request import Options

F = TypeVar("F", bound=Callable[..., Any])

OPTIONS = (
    click.option(
        "--shard",
        metavar="I/N",
        callback=values.shard,
        help="Take part I of N (from 0) of the scenes: for job arrays.",
    ),
    click.option(
        "--part",
        metavar="I/N",
        callback=values.shard,
        help="Compute part I of N (from 0) of one scene, beside the output in "
        "OUT.hsi-parts; auto/N takes I from the job array.",
    ),
    click.option(
        "--join",
        is_flag=True,
        help="Check the parts of one scene and publish its outputs; no engine runs.",
    ),
    click.option(
        "--report",
        type=click.Path(path_type=Path),
        help="With --join, or one scene and --scheduler: also write what each part "
        "took to this HTML file.",
    ),
    click.option(
        "--scheduler",
        metavar="ADDRESS|local[:N]",
        help="Compute parts, or scenes, on the workers of a dask.distributed scheduler "
        "(tls://HOST:PORT), or on N workers here.",
    ),
    click.option(
        "--insecure-cluster",
        is_flag=True,
        help="Allow --scheduler tcp:// on another machine, in a network you trust.",
    ),
)


def part_options(command: F) -> F:
    """Add the options of parts to a command."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def check(options: "Options", on_scheduler: bool) -> None:
    """Refuse options that do not fit to who computes.

    Args:
        options: The options.
        on_scheduler: Whether the workers of a scheduler do.

    Raises:
        OptionError: A scheduler got a part, a join, or a scene that is followed; or
            a report was requested where there are no parts.
    """
    alone = options.part is not None or options.join or options.follow is not None
    if on_scheduler and alone:
        raise OptionError(
            "A scheduler deals out all parts and joins them. Leave out part, join and "
            "follow.",
            "scheduler",
        )
    if options.report is not None and not (options.join or on_scheduler):
        raise OptionError("Only parts are reported on: join them.", "report")


def runner_of(options: "Options") -> Callable[..., dict[str, Any]]:
    """Return what classifies a scene: a run, one part, or a join of all parts."""
    if options.part is not None:
        from hsi_runtime.parts.computing import compute_part

        return compute_part
    if options.join:
        from hsi_runtime.parts.joining import join_parts

        return join_parts
    from hsi_runtime.pipeline import run

    return run
