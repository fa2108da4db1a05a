"""Simulate airborne hyperspectral scenes with known truth, of any size.

A scene is a function of its ``SceneSpec``: a landscape (``hsi_train.landscape``) is
sampled at 3x3 points per pixel, whose materials (``hsi_train.materials``) mix linearly,

    reflectance[band] = sum over points of light * spectrum[band] / points

and a sensor adds noise, worst at the ends of its range and where water vapour absorbs.
Each pixel row is computed from its coordinates alone, so a scene is written strip by
strip, and its bytes do not depend on the strips' height. Shadow is a factor of light
(the sky's blue is not modelled), and a label never means shadow.

Integers hold reflectance x 10000. The nodata value (uint16 0, int16 -32768, float32
-9999) is always declared, and no valid pixel holds it in any band.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Any, get_args

import click
import msgspec
import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.windows import Window

from hsi_runtime.errors import HsiError, OutputError, SceneError
from hsi_train.landscape import Landscape, hash_cells
from hsi_train.materials import MATERIALS, variants
from hsi_train.scene_files import (
    BLOCK,
    EnviCube,
    Layout,
    TiffCube,
    check_outputs,
    envi_header,
    open_abundances,
    open_truth,
    replacing,
)
from hsi_train.scene_spec import (
    DEFAULT_MATERIALS,
    NODATA,
    SCALE,
    DomainShift,
    DType,
    SceneSpec,
    band_centres,
    band_widths,
    class_colors,
    class_names,
)

__all__ = [
    "DEFAULT_MATERIALS",
    "DomainShift",
    "SceneSpec",
    "band_centres",
    "class_colors",
    "class_names",
    "simulate_window",
    "truth_labels",
    "write_scene",
]

FloatArray = NDArray[np.float32]
Simulated = tuple[NDArray[Any], FloatArray, NDArray[np.bool_]]

SAMPLES = 3  # points per pixel side when materials mix
VARIANTS = 8  # spectra that stand for one material
# Share of a point's spectrum that varies from pixel to pixel; the rest is its field's.
PIXEL_SHARE = 0.75
COMPRESSIONS = ("deflate", "lzw", "zstd")
CHUNK_PIXELS = 8192  # computed at once: the temporaries fit a core's cache


def library(spec: SceneSpec) -> FloatArray:
    """Compute the spectra as this sensor sees them: ``(material, variant, band)``."""
    shift = spec.shift or DomainShift()
    centres = np.asarray(spec.wavelengths_nm) + shift.spectral_shift_nm
    sigma = np.asarray(band_widths(spec)) / 2.3548
    # A Gaussian response sampled at seven points.
    steps = np.linspace(-2.1, 2.1, 7)
    weights = np.exp(-0.5 * steps**2)
    weights /= weights.sum()
    spectra = [
        sum(
            weight * variants(name, centres + step * sigma, VARIANTS)
            for step, weight in zip(steps, weights, strict=True)
        )
        for name in spec.materials
    ]
    return np.asarray(spectra, dtype=np.float32)


def noise_sigma(spec: SceneSpec) -> FloatArray:
    """Return the standard deviation of the sensor's noise as reflectance, per band."""
    w = np.asarray(spec.wavelengths_nm)
    worse = (
        1
        + 2.0 * np.exp((350 - w) / 60)
        + 2.0 * np.exp((w - 2500) / 120)
        + 12 * np.exp(-0.5 * np.square((w - 1385) / 28))
        + 16 * np.exp(-0.5 * np.square((w - 1880) / 40))
        + 1.0 * np.exp(-0.5 * np.square((w - 940) / 20))
    )
    return np.asarray(spec.noise * 0.009 * worse, dtype=np.float32)


class Sensor:
    """What is the same for every row of a scene, and the way from points to values."""

    def __init__(self, spec: SceneSpec) -> None:
        self.spec = spec
        self.landscape = Landscape(spec.seed, spec.materials)
        self.samples = SAMPLES if spec.mixing else 1
        self.unit = np.float32(1 if spec.dtype == "float32" else SCALE)
        shift = spec.shift or DomainShift()
        w = np.asarray(spec.wavelengths_nm)
        gain = shift.gain + shift.gain_slope * (w - 1000) / 1000
        spectra = library(spec).reshape(-1, w.size) * gain.astype(np.float32)
        self.spectra = np.ascontiguousarray(spectra.T * self.unit)
        added = shift.offset + shift.haze * np.square(550 / w)
        self.added = (added[:, None] * self.unit).astype(np.float32)
        self.sigma = noise_sigma(spec)[:, None] * self.unit

    def mix(self, row0: int, rows: int) -> tuple[FloatArray, FloatArray]:
        """Sum the points of each pixel, from the landscape's row ``row0`` on.

        Returns:
            The light on each variant of each material, ``(row, material * variant,
            col)``, and the abundances, ``(material, row, col)``.
        """
        spec, n = self.spec, self.samples
        count = len(spec.materials)
        size = spec.resolution_m / n
        y = (np.arange(row0 * n, (row0 + rows) * n, dtype=np.float64) + 0.5) * size
        x = (np.arange(spec.cols * n, dtype=np.float64) + 0.5) * size
        cover = self.landscape.cover(y, x)
        row = np.arange(rows * n) // n
        col = np.arange(spec.cols * n) // n
        pixel = row[:, None] * spec.cols + col[None, :]
        shape = (count, rows, spec.cols)
        abundances = np.bincount(
            (cover.material * (rows * spec.cols) + pixel).ravel(),
            minlength=count * rows * spec.cols,
        ).reshape(shape)

        # Two varieties meet in a point: one of its field, and one of its pixel, which
        # stands for what a field's spectrum leaves open.
        drawn = hash_cells(
            spec.seed, 20, row0 + np.arange(rows)[:, None], np.arange(spec.cols)[None]
        )
        own = (drawn[row][:, col] >> np.uint32(8)) % np.uint32(VARIANTS)
        shared = (cover.field >> np.uint32(11)) % np.uint32(VARIANTS)
        strength = (cover.field >> np.uint32(3)) & np.uint32(255)
        light = cover.light * (0.95 + strength.astype(np.float32) * np.float32(4e-4))
        light *= np.float32(1 / n**2)
        place = row[:, None] * (count * VARIANTS * spec.cols) + col[None, :]
        place = place + cover.material * (VARIANTS * spec.cols)
        lit = np.zeros(rows * count * VARIANTS * spec.cols)
        for variant, share in ((shared, 1 - PIXEL_SHARE), (own, PIXEL_SHARE)):
            where = place + variant.astype(np.intp) * spec.cols
            lit += np.bincount(
                where.ravel(), (light * np.float32(share)).ravel(), lit.size
            )
        mixed = lit.astype(np.float32).reshape(rows, count * VARIANTS, spec.cols)
        return mixed, (abundances * np.float32(1 / n**2)).astype(np.float32)

    def expose(self, row: int, mixed: FloatArray) -> FloatArray:
        """Turn ``(material * variant, col)`` of one row into values ``(band, col)``."""
        values = self.spectra @ mixed
        values += self.added
        if self.spec.noise:
            key = np.array([self.spec.seed, row], dtype=np.uint64)
            random = np.random.Generator(np.random.Philox(key=key))
            noise = random.standard_normal(values.shape, dtype=np.float32)
            noise *= self.sigma
            values += noise
        if self.spec.dtype != "float32":
            limits = np.iinfo(self.spec.dtype)
            np.rint(values, out=values)
            np.clip(values, limits.min + 1, limits.max, out=values)
        result: FloatArray = values
        return result

    def window(self, row0: int, rows: int) -> Simulated:
        """Simulate some of the scene's rows; see ``simulate_window``."""
        spec = self.spec
        cube = np.empty((len(spec.wavelengths_nm), rows, spec.cols), spec.dtype)
        abundances = np.empty((len(spec.materials), rows, spec.cols), np.float32)
        step = max(1, CHUNK_PIXELS // spec.cols)
        for first in range(0, rows, step):
            count = min(step, rows - first)
            origin = spec.origin_row + row0 + first
            mixed, abundances[:, first : first + count] = self.mix(origin, count)
            for row in range(count):
                cube[:, first + row] = self.expose(origin + row, mixed[row])
        valid = valid_pixels(spec, row0, rows)
        if spec.nodata_border:
            cube[:, ~valid] = NODATA[spec.dtype]
        return cube, abundances, valid


def valid_pixels(spec: SceneSpec, row0: int, rows: int) -> NDArray[np.bool_]:
    """Mark the pixels inside the flight line, ``(row, col)``.

    With a border, the line leans: up to an eighth of the width is empty, on the left at
    the bottom and on the right at the top.
    """
    lean = spec.cols / 8 if spec.nodata_border else 0.0
    down = (np.arange(row0, row0 + rows)[:, None] + 0.5) / spec.rows
    col = np.arange(spec.cols)[None, :] + 0.5
    inside: NDArray[np.bool_] = (col > lean * down) & (
        col < spec.cols - lean * (1 - down)
    )
    return inside


def simulate_window(spec: SceneSpec, row0: int, rows: int) -> Simulated:
    """Simulate rows ``row0`` to ``row0 + rows`` of a scene.

    Returns:
        The cube as stored, ``(band, row, col)``; the true abundances, ``(material, row,
        col)``, also where the cube is empty; and which pixels are valid, ``(row,
        col)``.
    """
    if row0 < 0 or rows < 1 or row0 + rows > spec.rows:
        raise SceneError(
            f"Rows {row0} to {row0 + rows} were asked for, but the scene has rows 0 to "
            f"{spec.rows}; ask for rows inside it."
        )
    return Sensor(spec).window(row0, rows)


def truth_labels(abundances: FloatArray, valid: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Label each valid pixel by its largest abundance: codes 1..K, else 0."""
    codes: NDArray[np.uint8] = (abundances.argmax(axis=0) + 1).astype(np.uint8)
    codes[~valid] = 0
    return codes


def write_scene(
    spec: SceneSpec,
    path: Path,
    *,
    layout: Layout = "tiff-band",
    compress: str | None = None,
    truth: Path | None = None,
    abundances: Path | None = None,
    overwrite: bool = False,
    sparse: bool = False,
    strip_rows: int = BLOCK,
) -> None:
    """Write a scene strip by strip; memory holds one strip.

    Args:
        spec: The scene.
        path: Of the GeoTIFF, or of ENVI's data file, whose header ends in ``.hdr``.
        layout: ``tiff-band`` and ``tiff-pixel`` are tiled GeoTIFFs, ``tiff-striped`` is
            band by band in GDAL's own strips; ``bsq``, ``bil``, ``bip`` are ENVI.
        compress: ``deflate``, ``lzw`` or ``zstd``, for GeoTIFF.
        truth: Where to write the truth map, a GeoTIFF.
        abundances: Where to write the abundances, a GeoTIFF.
        overwrite: Whether existing files may be replaced.
        sparse: Whether a GeoTIFF omits tiles without a valid pixel.
        strip_rows: Rows computed at once, best a multiple of 128; no influence on the
            scene.

    Raises:
        OutputError: If an output exists, or cannot be written.
        ResourceError: If the disk lacks the room.
    """
    if layout not in get_args(Layout):
        raise OutputError(
            f"No layout is named {layout!r}; choose from {', '.join(get_args(Layout))}."
        )
    if compress not in (None, *COMPRESSIONS):
        raise OutputError(
            f"No compression is named {compress!r}; choose from "
            f"{', '.join(COMPRESSIONS)}."
        )
    envi = not layout.startswith("tiff")
    if envi and (compress or sparse):
        raise OutputError(
            "An ENVI file is neither compressed nor sparse; drop that option, or "
            "choose a tiff layout."
        )
    header = path.with_suffix(".hdr")
    outputs = [path] + [p for p in (truth, abundances) if p] + [header] * envi
    pixel_bytes = len(spec.wavelengths_nm) * np.dtype(spec.dtype).itemsize
    packed = bool(compress or sparse)
    check_outputs(
        outputs, overwrite, 0 if packed else spec.rows * spec.cols * pixel_bytes
    )
    sensor = Sensor(spec)
    try:
        # GDAL's cache, in MB: enough for the tiles of one pixel-interleaved row.
        with rasterio.Env(GDAL_CACHEMAX=64), ExitStack() as files:

            def place(target: Path) -> Path:
                return files.enter_context(replacing(target))

            cube_file: TiffCube | EnviCube
            if envi:
                place(header).write_text(envi_header(spec, layout), encoding="ascii")
                cube_file = EnviCube(spec, place(path), layout)
            else:
                cube_file = TiffCube(spec, place(path), layout, compress, sparse)
            files.callback(cube_file.close)
            truth_file = truth and open_truth(spec, place(truth))
            if truth_file:
                files.callback(truth_file.close)
            shares_file = abundances and open_abundances(spec, place(abundances))
            if shares_file:
                files.callback(shares_file.close)
            for row0 in range(0, spec.rows, strip_rows):
                rows = min(strip_rows, spec.rows - row0)
                cube, shares, valid = sensor.window(row0, rows)
                window = Window(0, row0, spec.cols, rows)
                cube_file.write(cube, row0)
                if truth_file:
                    truth_file.write(truth_labels(shares, valid), 1, window=window)
                if shares_file:
                    shares_file.write(np.where(valid, shares, -1), window=window)
    except (OSError, RasterioError) as error:
        if isinstance(error, HsiError):
            raise
        raise OutputError(
            f"{path} cannot be written ({error}); check the folder and the options."
        ) from error


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


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--rows", default=600, show_default=True, help="Height in pixels.")
@click.option("--cols", default=400, show_default=True, help="Width in pixels.")
@click.option("--bands", default=60, show_default=True, help="Number of bands.")
@click.option(
    "--range",
    "range_nm",
    type=(float, float),
    default=(400.0, 2500.0),
    show_default=True,
    help="First and last band centre, nm.",
)
@click.option("--seed", default=0, show_default=True, help="Of landscape and noise.")
@click.option(
    "--origin-row", default=0, show_default=True, help="Place in the landscape."
)
@click.option(
    "--resolution", default=1.0, show_default=True, help="Side of a pixel, m."
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
def main(
    path: Path,
    rows: int,
    cols: int,
    bands: int,
    range_nm: tuple[float, float],
    seed: int,
    origin_row: int,
    resolution: float,
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
) -> None:
    """Simulate a hyperspectral scene and write it to PATH."""
    try:
        spec = SceneSpec(
            rows=rows,
            cols=cols,
            wavelengths_nm=band_centres(bands, *range_nm),
            seed=seed,
            origin_row=origin_row,
            resolution_m=resolution,
            noise=noise,
            nodata_border=border,
            materials=materials or DEFAULT_MATERIALS,
            dtype=dtype,
            shift=shift,
        )
        write_scene(
            spec,
            path,
            layout=layout,
            compress=compress,
            truth=truth,
            abundances=abundances,
            overwrite=overwrite,
            sparse=sparse,
        )
    except HsiError as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(error.exit_code) from error


if __name__ == "__main__":
    main()
