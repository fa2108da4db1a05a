"""The options of hsi-run that belong to parts, and what they start."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hsi_runtime import option_values as values

if TYPE_CHECKING:
    from hsi_runtime.model.model_file import ModelFile
    from hsi_runtime.request import Options, Request

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


def run_on_cluster(
    requests: "Sequence[Request]",
    model: "ModelFile",
    address: str,
    insecure: bool,
    engine: dict[str, Any],
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Classify scenes on the workers of a scheduler.

    Args:
        requests: One scene, which is computed in parts, or many, each in one piece.
        model: A verified model.
        address: Address of the scheduler, or ``local[:N]``.
        insecure: Whether another machine's scheduler may do without TLS.
        engine: Device and threads of the workers' engine.
        progress: Called with what is finished and all there is to do.

    Returns:
        What a run of one scene gives, or one of many.
    """
    from hsi_runtime.parts.address import scheduler_of

    scheduler_of(address, insecure)  # before a package is missed
    from hsi_runtime import batch
    from hsi_runtime.parts.cluster import connected

    first = requests[0]
    engine = {"tile": first.tile, "max_memory_bytes": first.max_memory_bytes, **engine}
    with connected(address, insecure, model, engine) as cluster:
        results = cluster.classify(requests, model, progress)
    return results[0] if len(requests) == 1 else batch.summed_up(results)


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
