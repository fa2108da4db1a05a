"""The options of hsi-run that belong to parts, and what they start."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hsi_runtime import option_values as values

if TYPE_CHECKING:
    from hsi_runtime.request import Options

F = TypeVar("F", bound=Callable[..., Any])

OPTIONS = (
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
)


def part_options(command: F) -> F:
    """Add the options of parts to a command."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


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
