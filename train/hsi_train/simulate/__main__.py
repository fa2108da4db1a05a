"""Simulate a scene from the command line.

python -m hsi_train.simulate scene.tif --truth labels.tif
"""

from pathlib import Path
from typing import Any, get_args

import click
import msgspec
from click.core import ParameterSource

from hsi_runtime import command_line
from hsi_train.simulate.files import Layout
from hsi_train.simulate.live_command import live_options
from hsi_train.simulate.live_command import run as run_live
from hsi_train.simulate.materials import MATERIALS
from hsi_train.simulate.products.generator import MODULES, product_spec
from hsi_train.simulate.spec import (
    DEFAULT_MATERIALS,
    DomainShift,
    DType,
    SceneSpec,
    band_centres,
)
from hsi_train.simulate.writer import COMPRESSIONS, write_scene

DEFAULT_BANDS = 60
# Options that a product decides, by their names in Python.
FIXED = {
    "range_nm": "--range",
    "dtype": "--dtype",
    "layout": "--layout",
    "compress": "--compress",
    "sparse": "--sparse",
}


def parse_shift(
    context: click.Context, option: click.Parameter, values: tuple[str, ...]
) -> DomainShift | None:
    """Read ``name=value`` pairs."""
    try:
        pairs = dict(value.split("=", 1) for value in values)
        return msgspec.convert(pairs, DomainShift, strict=False) if pairs else None
    except ValueError as error:
        raise click.BadParameter(
            f"{error}; give NAME=NUMBER with NAME one of "
            f"{', '.join(DomainShift.__struct_fields__)}"
        ) from error


@click.command(name="hsi_train.simulate")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--rows", default=600, show_default=True, help="Height in pixels.")
@click.option("--cols", default=400, show_default=True, help="Width in pixels.")
@click.option(
    "--as",
    "product",
    type=click.Choice(list(MODULES)),
    help="Write a sensor product as its archive delivers it, a file or a folder PATH.",
)
@click.option(
    "--bands", type=int, help="Number of bands.  [default: 60; all of a product]"
)
@click.option(
    "--range",
    "range_nm",
    type=(float, float),
    default=(400.0, 2500.0),
    show_default=True,
    help="First and last band centre, nm.",
)
@click.option(
    "--seed", default=0, show_default=True, help="Seed of landscape and noise."
)
@click.option(
    "--origin-row", default=0, show_default=True, help="Place in the landscape."
)
@click.option(
    "--resolution",
    type=float,
    help="Side of a pixel, m.  [default: 1; that of a product]",
)
@click.option("--noise", default=1.0, show_default=True, help="Factor on the noise.")
@click.option("--border", is_flag=True, help="Leave slanted edges empty.")
@click.option(
    "--material",
    "materials",
    multiple=True,
    type=click.Choice(list(MATERIALS)),
    help="A class, in the order of the codes; repeat. Default: ten classes.",
)
@click.option(
    "--dtype", type=click.Choice(get_args(DType)), default="uint16", show_default=True
)
@click.option(
    "--layout",
    type=click.Choice(get_args(Layout)),
    default="tiff-band",
    show_default=True,
)
@click.option(
    "--shift",
    multiple=True,
    metavar="NAME=NUMBER",
    callback=parse_shift,
    help="gain, gain_slope, offset, haze or spectral_shift_nm; repeat.",
)
@click.option("--compress", type=click.Choice(COMPRESSIONS), help="GeoTIFF only.")
@click.option("--sparse", is_flag=True, help="Omit empty tiles, GeoTIFF only.")
@click.option("--truth", type=click.Path(path_type=Path), help="Truth map to write.")
@click.option(
    "--abundances", type=click.Path(path_type=Path), help="Abundance map to write."
)
@click.option("--overwrite", is_flag=True, help="Replace existing files.")
@live_options
def command(
    path: Path,
    rows: int,
    cols: int,
    product: str | None,
    bands: int | None,
    range_nm: tuple[float, float],
    seed: int,
    origin_row: int,
    resolution: float | None,
    noise: float,
    border: bool,
    materials: tuple[str, ...],
    dtype: DType,
    layout: Layout,
    shift: DomainShift | None,
    compress: str | None,
    sparse: bool,
    truth: Path | None,
    abundances: Path | None,
    overwrite: bool,
    live: bool,
    **camera: Any,
) -> None:
    """Simulate a hyperspectral scene and write it to PATH."""
    fields: dict[str, Any] = {
        "rows": rows,
        "cols": cols,
        "seed": seed,
        "origin_row": origin_row,
        "noise": noise,
        "nodata_border": border,
        "materials": materials or DEFAULT_MATERIALS,
        "shift": shift,
    }
    if resolution is not None:
        fields["resolution_m"] = resolution
    if product is None:
        centres = band_centres(DEFAULT_BANDS if bands is None else bands, *range_nm)
        spec = SceneSpec(wavelengths_nm=centres, dtype=dtype, **fields)
    else:
        _check_fixed(product)
        spec = product_spec(product, bands, **fields)
    if live:
        run_live(spec, path, layout, overwrite, camera)
        return
    write_scene(
        spec,
        path,
        layout=layout,
        compress=compress,
        truth=truth,
        abundances=abundances,
        overwrite=overwrite,
        sparse=sparse,
        product=product,
    )


def _check_fixed(product: str) -> None:
    """Refuse options that a product decides."""
    context = click.get_current_context()
    for name, option in FIXED.items():
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise click.UsageError(
                f"{option} has no meaning with --as {product}, which fixes it."
            )


if __name__ == "__main__":
    command_line.run(command)
