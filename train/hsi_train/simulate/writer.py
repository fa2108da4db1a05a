"""Writes a simulated scene strip by strip, with its truth."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.windows import Window

from hsi_runtime.errors import OutputError, ResourceError, SceneError
from hsi_runtime.files import replaced
from hsi_runtime.machine import machine_bytes
from hsi_runtime.output.names import check_outputs
from hsi_train.simulate.files import (
    BLOCK,
    EnviCube,
    Layout,
    TiffCube,
    check_folder,
    check_space,
    envi_header,
    filled,
    grid_profile,
    open_abundances,
    open_truth,
)
from hsi_train.simulate.products.generator import Writer, generator_of
from hsi_train.simulate.sensor import SAMPLES, VARIANTS, FloatArray, Sensor, Simulated
from hsi_train.simulate.spec import SceneSpec

COMPRESSIONS = ("deflate", "lzw", "zstd")


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
    product: str | None = None,
    strip_rows: int = BLOCK,
) -> None:
    """Write a scene strip by strip; memory holds one strip.

    Args:
        spec: The scene.
        path: The GeoTIFF, or ENVI's data file, whose header ends in ``.hdr``; or the
            file or the folder of a product.
        layout: ``tiff-band`` and ``tiff-pixel`` are tiled GeoTIFFs, ``tiff-striped`` is
            band by band in GDAL's own strips; ``bsq``, ``bil``, ``bip`` are ENVI.
        compress: ``deflate``, ``lzw`` or ``zstd``, for GeoTIFF.
        truth: Where to write the truth map, a GeoTIFF.
        abundances: Where to write the abundances, a GeoTIFF.
        overwrite: Whether existing files may be replaced.
        sparse: Whether a GeoTIFF omits tiles without a valid pixel.
        product: Sensor product to imitate in place of a layout, one of
            `generator.MODULES`; the scene has its bands and type, see
            `generator.product_spec`.
        strip_rows: Rows computed at once; no influence on the scene.

    Raises:
        OutputError: If an output exists, or cannot be written.
        ResourceError: If the disk lacks the room, or the machine the memory.
    """
    _check_options(layout, compress, sparse)
    form = _Form(layout, compress, sparse, product)
    outputs = [p for p in (truth, abundances) if p]
    if form.folder:
        check_folder(path, overwrite)
    else:
        outputs += [path] + [path.with_suffix(".hdr")] * form.envi
    check_outputs(outputs, [], overwrite)
    check_space(path.parent, 0 if compress or sparse else _stored_bytes(spec))
    _check_memory(spec, strip_rows)
    try:
        # GDAL's cache, in MB: enough for the tiles of one pixel-interleaved row.
        with rasterio.Env(GDAL_CACHEMAX=64), ExitStack() as files:
            cube = form.open(spec, path, files)
            files.callback(cube.close)
            labels = truth and files.enter_context(
                open_truth(spec, files.enter_context(replaced(truth)), form.grid(spec))
            )
            shares = abundances and files.enter_context(
                open_abundances(
                    spec, files.enter_context(replaced(abundances)), form.grid(spec)
                )
            )
            _write_strips(Sensor(spec), strip_rows, cube, labels, shares)
    except (OSError, RasterioError) as error:
        raise OutputError(
            f"{path} cannot be written ({error}); check the folder and the options."
        ) from error


class _Form(NamedTuple):
    """What a scene is written as; see `write_scene`."""

    layout: Layout
    compress: str | None
    sparse: bool
    product: str | None

    @property
    def envi(self) -> bool:
        """True if the scene has a header of its own."""
        return self.product is None and not self.layout.startswith("tiff")

    @property
    def folder(self) -> bool:
        """True if the scene is a folder."""
        return self.product is not None and generator_of(self.product).folder

    def grid(self, spec: SceneSpec) -> dict[str, Any]:
        """Return the georeference of the truth, for rasterio."""
        of = grid_profile if self.product is None else generator_of(self.product).grid
        return of(spec)

    def open(self, spec: SceneSpec, path: Path, files: ExitStack) -> Writer:
        """Start to write a scene, whose files get their names when the stack ends."""
        target = files.enter_context(filled(path) if self.folder else replaced(path))
        if self.product is not None:
            return generator_of(self.product).start(spec, target)
        if not self.envi:
            return TiffCube(spec, target, self.layout, self.compress, self.sparse)
        header = files.enter_context(replaced(path.with_suffix(".hdr")))
        header.write_text(envi_header(spec, self.layout), encoding="ascii")
        return EnviCube(spec, target, self.layout)


def _check_options(layout: str, compress: str | None, sparse: bool) -> None:
    if layout not in get_args(Layout):
        raise OutputError(
            f"No layout is named {layout!r}; choose from {', '.join(get_args(Layout))}."
        )
    if compress not in (None, *COMPRESSIONS):
        raise OutputError(
            f"No compression is named {compress!r}; choose from "
            f"{', '.join(COMPRESSIONS)}."
        )
    if not layout.startswith("tiff") and (compress or sparse):
        raise OutputError(
            "An ENVI file is neither compressed nor sparse; drop that option, or "
            "choose a tiff layout."
        )


def _stored_bytes(spec: SceneSpec) -> int:
    pixel_bytes = len(spec.wavelengths_nm) * np.dtype(spec.dtype).itemsize
    return spec.rows * spec.cols * pixel_bytes


def _check_memory(spec: SceneSpec, strip_rows: int) -> None:
    """Refuse a scene of which one strip is larger than the memory."""
    pixels = min(strip_rows, spec.rows) * spec.cols
    value_bytes = np.dtype(spec.dtype).itemsize
    needed = pixels * (len(spec.wavelengths_nm) * value_bytes + 4 * len(spec.materials))
    # One row at a time is mixed: its points, and the light on each variety of material.
    needed += spec.cols * (SAMPLES**2 * 64 + 12 * VARIANTS * len(spec.materials))
    if needed > machine_bytes():
        raise ResourceError(
            f"{min(strip_rows, spec.rows)} rows of the scene take {needed / 1e9:.1f} "
            "GB, more than the memory of this machine; ask for fewer columns or bands."
        )


def _write_strips(
    sensor: Sensor,
    strip_rows: int,
    cube_file: Writer,
    truth_file: Any,
    abundances_file: Any,
) -> None:
    """Compute the scene strip by strip, and write each to the files that are asked."""
    spec = sensor.spec
    for row0 in range(0, spec.rows, strip_rows):
        rows = min(strip_rows, spec.rows - row0)
        cube, shares, valid = sensor.window(row0, rows)
        window = Window(0, row0, spec.cols, rows)
        cube_file.write(cube, row0)
        if truth_file:
            truth_file.write(truth_labels(shares, valid), 1, window=window)
        if abundances_file:
            abundances_file.write(np.where(valid, shares, -1), window=window)
