import gzip
import io
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest

from hsi_runtime.errors import SceneError
from hsi_runtime.scenes.opening import open_scene
from hsi_runtime.scenes.products.unread import MOST_DIRECTORY

NAME = "P/ENMAP01-SPECTRAL_IMAGE.TIF", "P/ENMAP01-METADATA.XML"


def zipped(*names: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return content.getvalue()


def tarred(zipped: bool) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("P/m.xml"))
    if zipped:
        return gzip.compress(content.getvalue(), mtime=0)
    return content.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("s.nc", b"CDF\x01" + bytes(99), "netCDF-3 file.* nccopy -k nc4 s.nc s.nc4"),
        ("s.nc", b"CDF\x05", "netCDF-3"),
        ("s.hdf", b"\x0e\x03\x13\x01", "HDF4 file.* HDF4_SDS:UNKNOWN:s.hdf:0 s.img"),
        ("s.jp2", b"\0\0\0\x0cjP  \r\n\x87\n", "gdal_translate s.jp2 s.tif"),
        ("s.ntf", b"NITF02.10", "gdal_translate s.ntf s.tif"),
        ("s.zip", zipped(*NAME), r"unzip s.zip\), then give P/ENMAP01-METADATA.XML\."),
        ("s.dat", zipped("a/b.TIF", "a/c.txt"), r"then give a/b.TIF\."),
        ("s.zip", zipped("a.txt"), "then give what was in it"),
        ("s.zip", b"PK\x03\x04" + bytes(50), "then give what was in it"),
        ("s.zip", b"PK\x03\x04" + bytes(50) + b"PK\x05\x06", "what was in it"),
        ("s.tar.gz", tarred(True), r"tar -xzf s.tar.gz\), then give P/m.xml\."),
        ("s.tar", tarred(False), r"tar -xf s.tar\), then give P/m.xml\."),
        ("s.tif.gz", gzip.compress(b"II*\0", mtime=0), "gunzip --keep s.tif.gz"),
        ("s.gz", b"\x1f\x8bnothing of gzip", "gunzip --keep s.gz"),
        ("s.7z", b"7z\xbc\xaf\x27\x1c", "7z x s.7z"),
        ("s.vrt", b"<VRTDataset/>", "names other files.* gdal_translate s.vrt s.tif"),
        ("s.vrt", b'<?xml version="1.0"?>\n<VRTDataset/>', "names other files"),
        ("s.cu3s", b"anything", "Cubert camera.* Export it as ENVI"),
        ("s.npy", b"\x93NUMPY\x01", "an array of numpy"),
    ],
)
def test_formats_that_are_not_read_are_named(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SceneError, match=message):
        open_scene(path)


def test_archive_with_a_huge_directory_is_not_listed(tmp_path: Path) -> None:
    content = bytearray(zipped(*NAME))
    at = content.rfind(b"PK\x05\x06")
    struct.pack_into("<I", content, at + 12, MOST_DIRECTORY + 1)
    path = tmp_path / "s.zip"
    path.write_bytes(content)
    with pytest.raises(SceneError, match="then give what was in it"):
        open_scene(path)


def test_names_in_an_archive_cannot_command_a_terminal(tmp_path: Path) -> None:
    path = tmp_path / "s.zip"
    path.write_bytes(zipped("\x1b[2Jmetadata.xml"))
    with pytest.raises(SceneError, match=r"give \?\[2Jmetadata\.xml\."):
        open_scene(path)


@pytest.mark.parametrize("mark", ["zarr.json", ".zgroup", ".zarray", ".zmetadata"])
def test_zarr_store_is_named(mark: str, tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    store.mkdir()
    (store / mark).write_text("{}")
    with pytest.raises(SceneError, match=r"Zarr store.*rio.to_raster\(\"s.tif\"\)"):
        open_scene(store)
