"""Compares a class map with a truth raster on the same grid.

python -m hsi_train.accuracy scene_classes.tif truth.tif
"""

from pathlib import Path

import click

from hsi_runtime import command_line
from hsi_train.measuring import shares as share_errors
from hsi_train.measuring.accuracy import area_table, compare


@click.command(name="hsi_train.accuracy")
@click.argument("class_map", type=click.Path(path_type=Path))
@click.argument("truth", type=click.Path(path_type=Path))
@click.option(
    "--abundances",
    type=click.Path(path_type=Path),
    help="True share of each material in a pixel, as the simulator writes it.",
)
@click.option(
    "--shares",
    type=click.Path(path_type=Path),
    help="Abundances of hsi-run: compare them and their areas with --abundances.",
)
@click.option("--min-abundance", type=click.FloatRange(0, 1), default=0.0)
@click.option(
    "--probability-sample",
    is_flag=True,
    help="TRUTH was drawn at random, from the map or within its classes: estimate "
    "areas with 95 % intervals.",
)
def command(
    class_map: Path,
    truth: Path,
    abundances: Path | None,
    shares: Path | None,
    min_abundance: float,
    probability_sample: bool,
) -> None:
    """Print the accuracy of CLASS_MAP against TRUTH."""
    if probability_sample and abundances is not None:
        raise click.UsageError(
            "--abundances picks pixels, so they are no --probability-sample."
        )
    if shares is not None and abundances is None:
        raise click.UsageError("--shares has no truth; give it by --abundances.")
    result = compare(class_map, truth, abundances, min_abundance, probability_sample)
    click.echo(
        "{pixels:,} pixels: overall accuracy {overall_accuracy:.2%}, average accuracy "
        "{average_accuracy:.2%}, kappa {kappa:.3f}".format(**result)
    )
    if probability_sample:
        click.echo(area_table(result["area_adjusted"]))
    if shares is not None and abundances is not None:
        click.echo(share_errors.table(share_errors.compare(shares, abundances)))


if __name__ == "__main__":
    command_line.run(command)
