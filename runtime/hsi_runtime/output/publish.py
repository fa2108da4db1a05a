"""Turns finished raw files into verified Cloud-Optimised GeoTIFFs, then names them.

GDAL may fail to write without saying so: closing a file raises nothing. So every file
is read back and compared before it takes the name of the output, and an older output
stays valid until that moment. The layers of a swath are put on the ground before.
"""

import errno
import os
import shutil
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import rasterio
import rasterio.shutil
import rasterio.windows
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError

from hsi_runtime import files
from hsi_runtime.errors import OutputError, ResourceError, VerificationError
from hsi_runtime.machine import usable_cores
from hsi_runtime.output.journal import Journal
from hsi_runtime.output.layers import LAYERS, UNCLASSIFIED, Counts, Layer
from hsi_runtime.output.names import files_of, side_car
from hsi_runtime.output.raw_file import RawFile, bytes_of, raw_vrt
from hsi_runtime.scenes.geotiff import open_tiff
from hsi_runtime.scenes.scene import Cells, Placement, SceneInfo
from hsi_runtime.walk.windows import Window, tiles

VERIFY_ROWS = 512
PLACED_ROWS = 256  # of the ground at once
GDAL_CACHE_MB = 64
SPARE_BYTES = 1024**2


def place(
    journal: Journal,
    table: Placement,
    grid: SceneInfo,
    parts: tuple[Window, Window],
    codes: list[int],
) -> Counts:
    """Give a journal the layers that are published, on the grid of the ground.

    A pixel that stands in several cells gives each of them its values; a cell without a
    pixel is nodata.

    Args:
        journal: Journal of a map that is complete.
        table: Lookup table of the scene.
        grid: Size and georeference of the outputs.
        parts: The part of the table that the outputs show, and the part of the scene
            that the journal holds.
        codes: Label code of each class index.

    Returns:
        Pixels of the class map on the ground.

    Raises:
        SceneError: The lookup table cannot be read.
        OSError: The disk is full.
    """
    ground, swath = parts
    counts = Counts([0] * len(codes))
    with ExitStack() as stack:
        rasters = {}
        for layer in journal.layers:
            path = journal.folder / f"{layer.name}.placed.raw"
            rasters[layer.name] = RawFile(path, layer, grid, "w+b")
            stack.callback(rasters[layer.name].close)
        for rows in tiles((ground.row, ground.row_end), PLACED_ROWS):
            cells = table.read(rows, (ground.col, ground.col_end))
            counts.add(
                _place_rows(journal, rasters, cells, (rows, ground, swath), codes)
            )
        stack.pop_all()
    journal.publish_from(grid, rasters)
    return counts


def _place_rows(
    journal: Journal,
    rasters: dict[str, RawFile],
    cells: Cells,
    place: tuple[tuple[int, int], Window, Window],
    codes: list[int],
) -> Counts:
    """Place some rows of the grid in all layers; count those of the class map."""
    (top, bottom), ground, swath = place
    inside = cells.rows >= 0
    lines, samples = cells.rows[inside] - swath.row, cells.cols[inside] - swath.col
    first = int(lines.min(initial=swath.rows))
    last = max(int(lines.max(initial=-1)) + 1, first)
    counts = Counts([0] * len(codes))
    for layer in journal.layers:
        values = np.full((len(layer.bands), *inside.shape), layer.nodata, layer.dtype)
        for band in range(len(layer.bands) if len(lines) else 0):
            raw = journal.read(layer, band, (first, last), (0, swath.cols))
            seen = np.frombuffer(raw, layer.dtype).reshape(last - first, swath.cols)
            values[band][inside] = seen[lines - first, samples]
        rows = top - ground.row, bottom - ground.row
        rasters[layer.name].write(rows, (0, ground.cols), values)
        if layer.name == "classes":
            pixels = np.bincount(values.ravel(), minlength=layer.nodata + 1)
            counts = Counts(
                [int(pixels[code]) for code in codes],
                unclassified=int(pixels[UNCLASSIFIED]),
                nodata=int(pixels[layer.nodata]),
            )
    return counts


def convert(journal: Journal, tags: dict[str, str], compress: str) -> dict[str, Path]:
    """Turn every raw file into a verified COG, still in the journal's folder.

    Args:
        journal: Journal of a map that is complete.
        tags: Metadata of the files.
        compress: ``deflate`` or another compression of GDAL's COG driver.

    Returns:
        The file of each layer, the class map first.

    Raises:
        ResourceError: The disk is full.
        VerificationError: A file does not read back as it was written.
    """
    finished = {}
    try:
        for layer in journal.layers:
            finished[layer.name] = _cog(journal, layer, tags, compress)
            _verify(journal, layer, finished[layer.name])
    # rasterio lets GDAL's own errors out of a copy; of one that comes while it closes
    # a file, Python only knows that there was one.
    except (RasterioError, CPLE_BaseError, SystemError) as error:
        journal.check_present()
        raise ResourceError(
            f"{journal.folder} cannot be turned into a GeoTIFF ({error}); is the disk "
            "full? Make room and repeat the command: it resumes."
        ) from error
    except OSError as error:
        raise journal.explain(error) from error
    return finished


def publish(
    journal: Journal,
    finished: dict[str, Path],
    paths: dict[str, Path],
    overwrite: bool,
) -> None:
    """Give finished files their names.

    The class map, first of them, comes last: where it is, everything is.

    Args:
        journal: Journal whose folder holds the files.
        finished: Files, by the name of their output.
        paths: Where each output belongs.
        overwrite: Replace what is there; what a resumed run published is its own.

    Raises:
        OutputError: A file is there, or cannot be renamed.
    """
    with journal.explaining():
        for file in finished.values():
            files.sync(file)
        there = [
            path
            for path in files_of(paths, [name for name in finished if name != "qml"])
            if os.path.lexists(path)
        ]
        if there and not (overwrite or journal.published):
            raise OutputError(
                f"{there[0]} appeared while the scene was classified and is left as it "
                "is. Move it away, or add --overwrite, and repeat the command: it "
                "resumes."
            )
        journal.mark_publishing()
        for name, file in reversed(finished.items()):
            if name in LAYERS:
                _publish_side_car(file, paths[name])
            _move(file, paths[name])
        files.sync(journal.folder.parent)


def _publish_side_car(raster: Path, published: Path) -> None:
    """Give the names of the classes their place; one of a replaced raster goes."""
    made = side_car(raster)
    if made.is_file():
        os.replace(made, side_car(published))
    else:
        side_car(published).unlink(missing_ok=True)


def _move(file: Path, target: Path) -> None:
    """Give a file its name, which may be on another disk than the journal."""
    try:
        os.replace(file, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with files.replaced(target) as partial:
            shutil.copyfile(file, partial)


def _cog(journal: Journal, layer: Layer, tags: dict[str, str], compress: str) -> Path:
    """Copy a raw file to a COG beside it."""
    folder = journal.folder.absolute()  # a relative path may look like a URL
    vrt, cog = folder / f"{layer.name}.vrt", folder / f"{layer.name}.tif"
    vrt.write_bytes(raw_vrt(journal.raw_name(layer), layer, journal.grid, tags))
    options = {
        "GDAL_CACHEMAX": GDAL_CACHE_MB,
        "GDAL_NUM_THREADS": usable_cores(),
        "CPL_TMPDIR": str(folder),
    }
    with rasterio.Env(**options):
        rasterio.shutil.copy(
            vrt,
            cog,
            driver="COG",
            compress=compress.upper(),
            blocksize=512,
            bigtiff="IF_SAFER",
            overview_resampling=layer.resampling,
        )
    return cog


def _verify(journal: Journal, layer: Layer, cog: Path) -> None:
    """Read the COG back and compare every value with its raw file."""
    rows, cols = journal.grid.rows, journal.grid.cols
    try:
        with (
            rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_MB),
            open_tiff(cog) as raster,
        ):
            same = raster.count == len(layer.bands) and raster.shape == (rows, cols)
            for band in range(raster.count if same else 0):
                for top in range(0, rows, VERIFY_ROWS):
                    bottom = min(top + VERIFY_ROWS, rows)
                    raw = journal.read(layer, band, (top, bottom), (0, cols))
                    window = rasterio.windows.Window(0, top, cols, bottom - top)
                    same &= raster.read(band + 1, window=window).tobytes() == raw
    except RasterioError as error:
        _check_space(journal, layer)
        raise VerificationError(
            f"The finished {layer.name} raster cannot be read back ({error}); is the "
            "disk faulty? Nothing was published."
        ) from error
    if not same:
        _check_space(journal, layer)
        raise VerificationError(
            f"The finished {layer.name} raster differs from what was computed; is the "
            "disk faulty? Nothing was published."
        )


def _check_space(journal: Journal, layer: Layer) -> None:
    """Try whether a file that went wrong had room: GDAL may not say that it had none.

    Raises:
        ResourceError: The disk is full.
    """
    probe = journal.folder / f"{layer.name}.probe"
    try:
        with journal.explaining(), files.open_own(probe, "w+b") as file:
            # A raster with its overviews is smaller, however little it compresses.
            files.reserve(file, 2 * bytes_of(layer, journal.grid) + SPARE_BYTES)
    finally:
        probe.unlink(missing_ok=True)
