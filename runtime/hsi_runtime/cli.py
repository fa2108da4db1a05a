"""hsi-run: scenes and a model file in, class maps out.

hsi-run scene.tif -m model.onnx
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hsi_runtime import command_line
from hsi_runtime import option_values as values
from hsi_runtime.follow_options import command as following
from hsi_runtime.parts import options as part_options

if TYPE_CHECKING:
    from hsi_runtime.engines.backend import Backend
    from hsi_runtime.model.model_file import ModelFile
    from hsi_runtime.request import Options, Request


@click.command(name="hsi-run")
@click.argument("scenes", type=click.Path(path_type=Path), nargs=-1, metavar="SCENE...")
@click.option(
    "-m",
    "--model",
    type=click.Path(path_type=Path),
    help="Model file.  [default: $HSI_MODEL, else ./model.onnx]",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Class map; for many scenes a folder.  [default: SCENE_classes.tif]",
)
@click.option(
    "--device",
    type=click.Choice(
        ["auto", "cpu", "cuda", "tensorrt", "openvino", "webgpu", "tensorrt-rtx", "qnn"]
    ),
    default="auto",
    show_default=True,
    help="The one asked for, or exit code 4; auto takes the best that is present, and "
    "measures once which engine of the CPU is faster with the model.",
)
@click.option(
    "--window",
    metavar="COL,ROW,WIDTH,HEIGHT",
    callback=values.window,
    help="Part to classify, in pixels.",
)
@click.option(
    "--bbox",
    "bounds",
    metavar="W,S,E,N",
    callback=values.bounds,
    help="Part to classify, in the scene's CRS.",
)
@click.option(
    "--max-memory",
    "max_memory_bytes",
    metavar="SIZE",
    callback=values.memory_bytes,
    help="Limit of the process, such as 2G.",
)
@click.option("--threads", type=int, help="[default: all cores]")
@click.option(
    "--tile",
    type=int,
    help="Side of the squares that are classified at once, px.  [default: by model]",
)
@click.option(
    "--reject",
    "reject_below",
    metavar="P|auto",
    callback=values.reject,
    help="Leave pixels with a best probability below P unclassified; auto: below what "
    "the model suggests (--describe).  [default: 0]",
)
@click.option("--confidence", is_flag=True, help="Also write *_confidence.tif.")
@click.option("--probabilities", is_flag=True, help="Also write *_probabilities.tif.")
@click.option(
    "--abundances", is_flag=True, help="Also write *_abundances.tif (s2vnet)."
)
@click.option(
    "--sets",
    metavar="P",
    type=float,
    help="Also write *_sets.tif: the classes that cannot be excluded, among which the "
    "right one is for the share P of the pixels. The model offers some P (--describe).",
)
@click.option(
    "--novelty",
    is_flag=True,
    help="Also write *_novelty.tif: how far spectra are from those of training. At "
    "0.99, one in a hundred of its own pixels is as far.",
)
@click.option(
    "--adapt",
    metavar="moments",
    help="Move and scale the bands to the mean and deviation of the training scene. "
    "For another day or sensor where land cover is alike; elsewhere it does harm.",
)
@click.option(
    "--scale",
    type=float,
    help="The scene's values times this are reflectance, or what the model was trained "
    "on, whatever the scene declares: 1 for decimal numbers from 0 to 1.",
)
@click.option("--preview", is_flag=True, help="Also write *_preview.png.")
@click.option("--stac", is_flag=True, help="Also write a STAC item, *.stac.json.")
@click.option(
    "--vector",
    type=click.Path(path_type=Path),
    help="Also write polygons of the classes to this GeoPackage (.gpkg).",
)
@click.option(
    "--min-area",
    "min_area_m2",
    type=float,
    default=0.0,
    help="Smallest polygon to keep, in square metres; in pixels where the scene's CRS "
    "is geographic or missing.",
)
@click.option(
    "--compress",
    metavar="[deflate|zstd|lzw|none]",
    default="deflate",
    show_default=True,
    help="Compression of the GeoTIFFs.",
)
@click.option("--overwrite", is_flag=True, help="Replace outputs that are there.")
@click.option(
    "--no-resume",
    "resume",
    flag_value=False,
    default=True,
    help="Forget what an interrupted run did.",
)
@click.option(
    "--info", is_flag=True, help="Print what the scene is; no model is needed."
)
@click.option("--describe", is_flag=True, help="Print what the model is.")
@click.option("--self-test", is_flag=True, help="Run the model's stored sample.")
@click.option(
    "--benchmark", is_flag=True, help="Measure pixels per second of the engine."
)
@click.option("--dry-run", is_flag=True, help="Print the plan; write nothing.")
@part_options.part_options
@following.follow_options
@command_line.common_options
def command(
    scenes: tuple[Path, ...],
    model: Path | None,
    output: Path | None,
    device: str,
    threads: int | None,
    shard: tuple[int, int] | None,
    scheduler: str | None,
    insecure_cluster: bool,
    info: bool,
    describe: bool,
    self_test: bool,
    benchmark: bool,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Classify SCENEs with a model file of hsi-export.

    A SCENE is a GeoTIFF or ENVI file, or a sensor product: its folder or any of its
    files.

    Writes a class map in the codes of the training labels (0 unclassified, 255 nodata)
    as a Cloud-Optimised GeoTIFF, with colours, names and the scene's georeference. A
    SCENE that ends in .txt is a list of scenes. A run that was interrupted goes on
    where it stopped when it is repeated.
    """
    command_line.start_messages(quiet)
    if not scenes and not (describe or self_test or benchmark):
        raise click.UsageError("Missing SCENE.")
    chosen = _checked(options, threads, scheduler)
    if info:
        return _show_scenes(scenes, as_json)
    from hsi_runtime import batch, reports
    from hsi_runtime.engines.opening import open_backend

    if chosen.follow is not None:
        other = dry_run or describe or self_test or benchmark
        following.check_alone(scenes, output, shard, other)
    loaded = _read_model(model)
    if describe:
        return _show(reports.describe_model(loaded), as_json)
    if self_test:
        return _show(reports.self_test(loaded, device, threads), as_json)
    if benchmark:
        measured = reports.benchmark(loaded, device, threads, chosen.tile)
        return _show(measured, as_json)
    listed = batch.expand(scenes)
    many = listed != list(scenes) or len(listed) > 1
    requests = batch.make_requests(listed, output, chosen, many)
    alone = not many and shard is None
    if not alone and (chosen.join or chosen.part is not None):
        raise click.UsageError("--part and --join take one scene.")
    parts = batch.shard(requests, shard)
    if dry_run:
        plan = partial(reports.dry_run, model=loaded, device=device, threads=threads)
        if alone:
            return _show(plan(requests[0]), as_json)
        return _show_all(batch.plan_all(parts, plan), as_json)
    if scheduler is not None:
        where = scheduler, insecure_cluster, device, threads
        return _run_on_cluster(parts, not alone, (loaded, *where), quiet, as_json)
    opened_for = batch.engine_options(parts, chosen)
    start = partial(open_backend, loaded, device, threads, **opened_for)
    if chosen.follow is not None:
        return _follow(requests[0], loaded, start, quiet, as_json)
    if alone:
        return _run_one(requests[0], loaded, start, quiet, as_json)
    return _run_many(parts, loaded, start, quiet, as_json)


def _checked(
    options: dict[str, Any], threads: int | None, scheduler: str | None
) -> "Options":
    """Check the values that the command line shares with Python.

    Raises:
        BadParameter: A value is out of range.
    """
    from hsi_runtime.machine import engine_threads
    from hsi_runtime.request import Options

    with _option_errors():
        engine_threads(threads)
        chosen = Options(**following.taken(options))
        part_options.check(chosen, scheduler is not None)
    return chosen


@contextlib.contextmanager
def _option_errors() -> Iterator[None]:
    """Turn an error of an option into one of the command line, by its name there."""
    from hsi_runtime.errors import OptionError

    try:
        yield
    except OptionError as error:
        parameters = {p.name: p for p in command.params}
        raise click.BadParameter(
            error.reason, param=parameters[error.option]
        ) from error


def _read_model(path: Path | None) -> "ModelFile":
    from hsi_runtime.errors import ModelFileError
    from hsi_runtime.model.model_file import read_model

    path = path or Path(os.environ.get("HSI_MODEL") or "model.onnx")
    if not os.path.exists(path):
        raise ModelFileError(
            f"There is no model file {path}; name one with -m or $HSI_MODEL."
        )
    return read_model(path)


def _show_scenes(scenes: Sequence[Path], as_json: bool) -> int:
    """Print what scenes are."""
    from hsi_runtime import batch
    from hsi_runtime.scenes.products import scene_report

    listed = batch.expand(scenes)
    if listed == list(scenes) and len(listed) == 1:
        return _show(scene_report.report(listed[0]), as_json)
    reported = batch.report_all(listed, scene_report.report)
    return _show_all(reported, as_json)


def _follow(
    request: "Request",
    model: "ModelFile",
    start: "Callable[[], Backend]",
    quiet: bool,
    as_json: bool,
) -> int:
    from hsi_runtime.follow.flight import follow

    def tell(line: str) -> None:
        if as_json:
            command_line.echo(line)

    with command_line.pixel_bar(quiet) as progress, command_line.orderly_stop() as stop:
        result = follow(request, model, start, progress, tell, stop)
    if as_json:
        command_line.echo(json.dumps(result, allow_nan=False))
        return 0
    return _tell(result, quiet, as_json)


def _run_one(
    request: "Request",
    model: "ModelFile",
    start: "Callable[[], Backend]",
    quiet: bool,
    as_json: bool,
) -> int:
    run = part_options.runner_of(request)
    with command_line.pixel_bar(quiet) as progress:
        result = run(request, model, start, progress)
    return _tell(result, quiet, as_json)


def _tell(result: dict[str, Any], quiet: bool, as_json: bool) -> int:
    """Print the result of one scene."""
    from hsi_runtime import reports

    if as_json:
        command_line.print_json(result)
        return 0
    if not quiet:
        click.echo(reports.summary(result), err=True)
    command_line.echo(result.get("parts_folder", result["output"]))
    return 0


def _run_many(
    requests: "Sequence[Request]",
    model: "ModelFile",
    start: "Callable[[], Backend]",
    quiet: bool,
    as_json: bool,
) -> int:
    from hsi_runtime import batch

    with command_line.pixel_bar(quiet) as progress:
        done = partial(_tell_output, as_json)
        results = batch.run_all(requests, model, start, progress, done)
    return _tell_all(results, quiet, as_json)


def _tell_output(as_json: bool, result: dict[str, Any]) -> None:
    """Print the output of one of many scenes."""
    if not as_json:
        command_line.echo(result["output"])


def _tell_all(results: dict[str, Any], quiet: bool, as_json: bool) -> int:
    """Print the results of many scenes."""
    from hsi_runtime import batch, reports

    if as_json:
        command_line.print_json(results)
    elif not quiet:
        click.echo(reports.summary_of_many(results), err=True)
    return batch.exit_code(results)


def _run_on_cluster(
    requests: "Sequence[Request]",
    many: bool,
    where: "tuple[ModelFile, str, bool, str, int | None]",
    quiet: bool,
    as_json: bool,
) -> int:
    from hsi_runtime import batch
    from hsi_runtime.parts.workers import connection

    with (
        _option_errors(),
        connection(*where) as cluster,
        command_line.pixel_bar(quiet) as progress,
    ):
        if not many:
            return _tell(cluster.classify(requests[0], progress), quiet, as_json)
        done = partial(_tell_output, as_json)
        results = cluster.classify_all(requests, progress, done)
    return _tell_all(batch.summed_up(results), quiet, as_json)


def _show_all(content: dict[str, Any], as_json: bool) -> int:
    """Print a report on many scenes."""
    from hsi_runtime import batch, reports

    if as_json:
        command_line.print_json(content)
    elif content["scenes"]:
        command_line.echo("\n\n".join(map(reports.as_lines, content["scenes"])))
    return batch.exit_code(content)


def _show(content: dict[str, Any], as_json: bool) -> int:
    if as_json:
        command_line.print_json(content)
    else:
        from hsi_runtime import reports

        command_line.echo(reports.as_lines(content))
    return 0


def main() -> None:
    """Run hsi-run."""
    command_line.run(
        command,
        "Nothing of the scene at work was published; earlier output is as it was. "
        "Repeat the command to resume.",
    )
