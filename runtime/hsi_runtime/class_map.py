"""Writes the class map and its companions as Cloud-Optimised GeoTIFFs.

While a scene is classified, results go to raw scratch files in ``OUT.hsi-part/``: a
GeoTIFF writer that is killed leaves a file that opens and reads as zeros. At the end
the scratch is copied to a COG, read back, compared, and only then renamed.
"""

import errno
import fcntl
import importlib.metadata
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

import numpy as np
import rasterio
import rasterio.shutil
import rasterio.windows
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError

from hsi_runtime.errors import OutputError, ResourceError, VerificationError
from hsi_runtime.geotiff import open_tiff
from hsi_runtime.model_file import ModelDocument, ModelFile
from hsi_runtime.scene import SceneInfo
from hsi_runtime.vrt import raw_vrt

if TYPE_CHECKING:
    from hsi_runtime.pipeline import Counts

UNCLASSIFIED = 0
PROBABILITY_STEPS = 200  # probabilities are stored in steps of 1/200
PROBABILITY_NODATA = 255
VERIFY_ROWS = 512
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True)
class Layer:
    """One output raster.

    Attributes:
        name: ``classes``, ``confidence`` or ``probabilities``.
        dtype: Of its values.
        nodata: Value of pixels without data.
        bands: Description of each band.
        scale: Meaning of a step, or None.
        names: Category by value, or None.
        colors: ``#rrggbb`` by value, or None.
        resampling: Of the overviews.
    """

    name: str
    dtype: np.dtype[Any]
    nodata: int
    bands: list[str]
    scale: float | None
    names: dict[int, str] | None
    colors: dict[int, str] | None
    resampling: str


def map_dtype(document: ModelDocument) -> np.dtype[Any]:
    """Return the type of a class map: uint8 unless a code exceeds 254."""
    top = max(c.code for c in document.classes)
    return np.dtype(np.uint8 if top <= 254 else np.uint16)


def layers(document: ModelDocument, wanted: Sequence[str]) -> list[Layer]:
    """Describe the rasters that were asked for."""
    dtype = map_dtype(document)
    nodata = int(np.iinfo(dtype).max)
    names = {UNCLASSIFIED: "unclassified", nodata: "nodata"}
    colors = {UNCLASSIFIED: "#000000", nodata: "#ffffff"}
    names |= {c.code: c.name for c in document.classes}
    colors |= {c.code: c.color for c in document.classes}
    u1, step = np.dtype(np.uint8), 1 / PROBABILITY_STEPS
    every = {
        "classes": Layer(
            "classes", dtype, nodata, ["class"], None, names, colors, "MODE"
        ),
        "confidence": Layer(
            "confidence", u1, PROBABILITY_NODATA, ["probability of the class"], step,
            None, None, "AVERAGE",
        ),
        "probabilities": Layer(
            "probabilities", u1, PROBABILITY_NODATA, [c.name for c in document.classes],
            step, None, None, "AVERAGE",
        ),
    }  # fmt: skip
    return [every[name] for name in wanted if name in every]


def paths_of(output: Path) -> dict[str, Path]:
    """Name every output after the class map.

    ``a_classes.tif`` gives ``a_confidence.tif``; ``a.tif`` gives that, too.

    Raises:
        OutputError: The path names a folder.
    """
    if not output.name:
        raise OutputError(f"{output} is a folder; -o names a file.")
    stem = output.stem.removesuffix("_classes")
    return {
        "classes": output,
        "confidence": output.with_name(f"{stem}_confidence.tif"),
        "probabilities": output.with_name(f"{stem}_probabilities.tif"),
        "preview": output.with_name(f"{stem}_preview.png"),
    }


def check_outputs(
    outputs: Sequence[Path], inputs: Sequence[Path], overwrite: bool
) -> None:
    """Refuse outputs that must not be written, before any work.

    Raises:
        OutputError: One exists, is an input, or its folder is not there.
    """
    for path in outputs:
        try:
            path.exists()
        except OSError as error:  # such as a name that is too long
            raise OutputError(f"{path} cannot be written: {error.strerror}.") from error
        for source in inputs:
            if path.exists() and source.exists() and os.path.samefile(path, source):
                raise OutputError(f"{path} is the input {source}; choose another -o.")
        if path.is_dir():
            raise OutputError(f"{path} is a folder; -o names a file.")
        if path.exists() and not overwrite:
            raise OutputError(f"{path} exists; --overwrite replaces it.")
        folder = path.parent
        if not folder.is_dir():
            raise OutputError(f"There is no folder {folder}; create it first.")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(f"The folder {folder} is not writable.")


def provenance(model: ModelFile, info: SceneInfo, device: str) -> dict[str, str]:
    """Collect the tags that say where a map comes from; no clock, so bytes repeat."""
    version = importlib.metadata.version("hsi-edge")
    return {
        "TIFFTAG_SOFTWARE": f"hsi-edge {version}",
        "HSI_SCENE": info.path.name,
        "HSI_METHOD": model.document.method,
        "HSI_MODEL_SHA256": model.sha256,
        "HSI_PRECISION": model.document.precision,
        "HSI_DEVICE": device,
    }


class Scratch:
    """Raw files that take results in any order, until they are published."""

    def __init__(
        self,
        output: Path,
        info: SceneInfo,
        wanted: list[Layer],
        codes: Sequence[int],
        tags: dict[str, str],
    ) -> None:
        """Describe what is to be written; entering the context creates it.

        Args:
            output: Path of the class map.
            info: Scene whose grid the outputs have.
            wanted: Rasters to write.
            codes: Label code of each class index.
            tags: Provenance.
        """
        self._folder = output.with_name(output.name + ".hsi-part")
        self._info, self._layers, self._tags = info, wanted, tags
        self._files: dict[str, IO[bytes]] = {}
        self._lock: IO[bytes] | None = None
        self._codes = np.array(codes)

    def __enter__(self) -> Self:
        try:
            self._folder.mkdir(exist_ok=True)
            self._lock = (self._folder / "lock").open("wb")
        except OSError as error:
            raise OutputError(
                f"{self._folder} cannot be created: {error.strerror}."
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise OutputError(
                f"Another hsi-run is writing {self._folder}; wait for it, or choose "
                "another -o."
            ) from error
        try:
            for layer in self._layers:
                path = self._folder / f"{layer.name}.raw"
                file = path.open("w+b", buffering=0)
                self._files[layer.name] = file
                os.posix_fallocate(file.fileno(), 0, self._bytes(layer))
        except OSError as error:
            self._remove()
            raise self._explain(error) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._remove()

    def write(
        self,
        rows: tuple[int, int],
        cols: tuple[int, int],
        found: NDArray[np.float32] | None,
        valid: NDArray[np.bool_],
        reject_below: float,
        counts: "Counts",
    ) -> None:
        """Take the probabilities of a square.

        Args:
            rows: Its rows in the scene.
            cols: Its columns in the scene.
            found: Probabilities ``(class, row, col)``; None where no pixel is valid.
            valid: Pixels with data, shape ``(row, col)``.
            reject_below: Pixels whose best probability is lower stay unclassified.
            counts: Updated with what was written.

        Raises:
            ResourceError: The disk is full.
        """
        if found is not None:
            finite = np.isfinite(found).all(axis=0)
            counts.broken += int((valid & ~finite).sum())
            valid = valid & finite
        index = None if found is None else found.argmax(axis=0)
        best = None if found is None else found.max(axis=0)
        try:
            for layer in self._layers:
                if layer.name == "classes":
                    values = self._class_codes(layer, index, best, valid, reject_below)
                    self._count(layer, values, counts)
                    self._put(layer, rows, cols, values[None])
                    continue
                source = found
                if layer.name == "confidence" and best is not None:
                    source = best[None]
                shape = (len(layer.bands), *valid.shape)
                out = np.full(shape, layer.nodata, dtype=layer.dtype)
                if source is not None:
                    steps = np.rint(source[:, valid] * PROBABILITY_STEPS)
                    out[:, valid] = steps.astype(layer.dtype)
                self._put(layer, rows, cols, out)
        except OSError as error:
            raise self._explain(error) from error

    def convert(self) -> dict[str, Path]:
        """Turn every scratch file into a verified COG, still in the scratch folder.

        Raises:
            ResourceError: The disk is full.
            VerificationError: A file does not read back as it was written.
        """
        finished = {}
        try:
            for layer in self._layers:
                finished[layer.name] = self._cog(layer)
                self._verify(layer, finished[layer.name])
        # rasterio lets GDAL's own errors out of a copy.
        except (RasterioError, CPLE_BaseError) as error:
            raise ResourceError(
                f"{self._folder} cannot be turned into a GeoTIFF: {error}. Is the disk "
                "full?"
            ) from error
        except OSError as error:
            raise self._explain(error) from error
        return finished

    def publish(self, finished: dict[str, Path], paths: dict[str, Path]) -> None:
        """Give finished files their names.

        The class map, first of them, comes last: where it is, everything is.

        Args:
            finished: Files in the scratch folder, by the name of their output.
            paths: Where each output belongs.

        Raises:
            OutputError: A file cannot be renamed.
        """
        try:
            for name, file in reversed(finished.items()):
                side_car = file.with_name(file.name + ".aux.xml")
                published = paths[name].with_name(paths[name].name + ".aux.xml")
                if side_car.is_file():
                    os.replace(side_car, published)
                else:  # one of a replaced file would describe this one wrongly
                    published.unlink(missing_ok=True)
                os.replace(file, paths[name])
            _sync(self._folder.parent)
        except OSError as error:
            raise self._explain(error) from error

    def _class_codes(
        self,
        layer: Layer,
        index: NDArray[np.intp] | None,
        best: NDArray[np.float32] | None,
        valid: NDArray[np.bool_],
        reject_below: float,
    ) -> NDArray[Any]:
        if index is None or best is None:
            return np.full(valid.shape, layer.nodata, dtype=layer.dtype)
        codes = self._codes.astype(layer.dtype)[index]
        codes[best < reject_below] = UNCLASSIFIED
        codes[~valid] = layer.nodata
        return codes

    def _count(self, layer: Layer, values: NDArray[Any], counts: "Counts") -> None:
        found = np.bincount(values.ravel(), minlength=layer.nodata + 1)
        counts.of_class += found[self._codes]
        counts.unclassified += int(found[UNCLASSIFIED])
        counts.nodata += int(found[layer.nodata])

    def _put(
        self,
        layer: Layer,
        rows: tuple[int, int],
        cols: tuple[int, int],
        values: NDArray[Any],
    ) -> None:
        """Write a square ``(band, row, col)`` at its place in the raw file."""
        file = self._files[layer.name].fileno()
        size, width = layer.dtype.itemsize, self._info.cols
        whole_rows = cols == (0, width)
        for band, plane in enumerate(values):
            start = (band * self._info.rows + rows[0]) * width + cols[0]
            if whole_rows:
                _write_all(file, plane.tobytes(), start * size)
                continue
            for number, line in enumerate(plane):
                _write_all(file, line.tobytes(), (start + number * width) * size)

    def _cog(self, layer: Layer) -> Path:
        """Copy a raw file to a COG beside it."""
        raw = self._folder / f"{layer.name}.raw"
        vrt = self._folder / f"{layer.name}.vrt"
        cog = self._folder / f"{layer.name}.tif"
        vrt.write_bytes(raw_vrt(raw.name, layer, self._info, self._tags))
        options = {
            "GDAL_CACHEMAX": 64,
            "GDAL_NUM_THREADS": "ALL_CPUS",
            "CPL_TMPDIR": str(self._folder),
        }
        with rasterio.Env(**options):
            rasterio.shutil.copy(
                vrt,
                cog,
                driver="COG",
                compress="DEFLATE",
                blocksize=512,
                bigtiff="IF_SAFER",
                overview_resampling=layer.resampling,
            )
        with cog.open("rb") as file:
            os.fsync(file.fileno())
        return cog

    def _verify(self, layer: Layer, cog: Path) -> None:
        """Read the COG back and compare every value with the scratch.

        GDAL may fail to write without saying so: closing a file raises nothing.
        """
        width, size = self._info.cols, layer.dtype.itemsize
        try:
            with (
                rasterio.Env(GDAL_CACHEMAX=64),
                open_tiff(cog) as found,
            ):
                same = found.count == len(layer.bands) and found.shape == (
                    self._info.rows,
                    width,
                )
                for band in range(found.count if same else 0):
                    for top in range(0, self._info.rows, VERIFY_ROWS):
                        rows = min(VERIFY_ROWS, self._info.rows - top)
                        start = (band * self._info.rows + top) * width * size
                        raw = os.pread(
                            self._files[layer.name].fileno(), rows * width * size, start
                        )
                        window = rasterio.windows.Window(0, top, width, rows)
                        same &= found.read(band + 1, window=window).tobytes() == raw
        except RasterioError as error:
            raise VerificationError(
                f"The finished {layer.name} raster cannot be read back ({error}); is "
                "the disk full?"
            ) from error
        if not same:
            raise VerificationError(
                f"The finished {layer.name} raster differs from what was computed; is "
                "the disk full or faulty? Nothing was published."
            )

    def _bytes(self, layer: Layer) -> int:
        pixels = self._info.rows * self._info.cols
        return pixels * len(layer.bands) * layer.dtype.itemsize

    def _explain(self, error: OSError) -> Exception:
        if error.errno in FULL:
            needed = sum(self._bytes(layer) for layer in self._layers) / 1e6
            return ResourceError(
                f"The disk of {self._folder.parent} is full; the outputs need up to "
                f"{needed:.1f} MB of scratch and as much again for the result."
            )
        return OutputError(f"{self._folder.parent}: {error.strerror}.")

    def _remove(self) -> None:
        for file in self._files.values():
            file.close()
        if self._lock is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._lock.close()


def _write_all(file: int, data: bytes, offset: int) -> None:
    """Write all bytes: a nearly full disk takes a part of them without an error."""
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written


def _sync(folder: Path) -> None:
    """Make renames in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
