"""hsi-run: a scene and a model file in, a class map out.

hsi-run scene.tif -m model.onnx
"""

import os
from pathlib import Path
from typing import Any

import click

from hsi_runtime import command_line


@click.command(name="hsi-run")
@click.argument("scene", type=click.Path(path_type=Path), required=False)
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
    help="Class map.  [default: SCENE_classes.tif beside the scene]",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda", "tensorrt", "openvino"]),
    default="auto",
    show_default=True,
    help="The one asked for, or exit code 4. This release has cpu.",
)
@click.option("--threads", type=click.IntRange(min=1), help="[default: all cores]")
@click.option(
    "--tile",
    type=click.IntRange(min=1),
    default=128,
    show_default=True,
    help="Side of the squares that are classified at once, px.",
)
@click.option(
    "--reject",
    type=click.FloatRange(0, 1),
    metavar="P",
    help="Leave pixels with a best probability below P unclassified.",
)
@click.option("--confidence", is_flag=True, help="Also write *_confidence.tif.")
@click.option("--probabilities", is_flag=True, help="Also write *_probabilities.tif.")
@click.option("--preview", is_flag=True, help="Also write *_preview.png.")
@click.option("--overwrite", is_flag=True, help="Replace outputs that are there.")
@click.option("--describe", is_flag=True, help="Print what the model is.")
@click.option("--self-test", is_flag=True, help="Run the model's stored sample.")
@click.option("--dry-run", is_flag=True, help="Print the plan; write nothing.")
@command_line.common_options
def command(
    scene: Path | None,
    model: Path | None,
    describe: bool,
    self_test: bool,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Classify SCENE, a GeoTIFF or ENVI file, with a model file of hsi-export.

    Writes a class map in the codes of the training labels (0 unclassified, 255 nodata)
    as a Cloud-Optimised GeoTIFF, with colours, names and the scene's georeference.
    """
    command_line.start_messages(quiet)
    if scene is None and not (describe or self_test):
        raise click.UsageError("Missing SCENE.")
    from hsi_runtime import reports
    from hsi_runtime.errors import ModelFileError
    from hsi_runtime.model_file import read_model

    chosen = model or Path(os.environ.get("HSI_MODEL") or "model.onnx")
    if not os.path.exists(chosen):
        raise ModelFileError(
            f"There is no model file {chosen}; name one with -m or $HSI_MODEL."
        )
    loaded = read_model(chosen)
    if describe:
        _show(reports.describe(loaded), as_json)
        return
    if self_test:
        found = reports.self_test(loaded, options["device"], options["threads"])
        _show(found, as_json)
        return
    assert scene is not None
    output = options.pop("output")
    if dry_run:
        _show(reports.dry_run(scene, loaded, options["tile"]), as_json)
        return
    result = _run(scene, output, loaded, options, quiet)
    if as_json:
        command_line.print_json(result)
        return
    if not quiet:
        click.echo(reports.summary(result), err=True)
    click.echo(result["output"])


def _run(
    scene: Path, output: Path | None, model: Any, options: dict[str, Any], quiet: bool
) -> dict[str, Any]:
    from tqdm import tqdm

    from hsi_runtime.pipeline import Request, run
    from hsi_runtime.scene import local_file

    options["reject_below"] = reject = options.pop("reject")
    if reject is not None and not 0 <= reject <= 1:  # not a number
        raise click.BadParameter(f"{reject} is not in 0..1.", param_hint="'--reject'")
    local_file(scene)
    if output is None:
        named = scene.with_suffix("") if scene.suffix.lower() == ".hdr" else scene
        output = named.with_name(f"{named.stem}_classes.tif")
    request = Request(scene=scene, output=output, **options)
    with tqdm(
        disable=not command_line.show_progress(quiet),
        unit="px",
        unit_scale=True,
        leave=False,
    ) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return run(request, model, progress)


def _show(content: dict[str, Any], as_json: bool) -> None:
    if as_json:
        command_line.print_json(content)
        return
    for key, value in content.items():
        click.echo(f"{key}: {value}")


def main() -> None:
    """Run hsi-run."""
    command_line.run(command, "Nothing was published; earlier output is as it was.")
