"""Names the formats that are not read, each with the command that converts it.

Contents are looked at, but for Cubert's files, which have no mark that is known.
"""

import io
import re
import struct
import zipfile
import zlib
from pathlib import Path

from hsi_runtime.files import open_binary

# What a file begins with, what that is, and what turns it into something that is read.
BEGINNINGS = (
    (b"CDF", "a netCDF-3 file", "nccopy -k nc4 {name} {stem}.nc4"),
    (
        b"\x0e\x03\x13\x01",
        "an HDF4 file",
        "gdal_translate -of ENVI HDF4_SDS:UNKNOWN:{name}:0 {stem}.img",
    ),
    (
        b"\0\0\0\x0cjP  \r\n\x87\n",
        "a JPEG 2000 file",
        "gdal_translate {name} {stem}.tif",
    ),
    (b"NITF", "a NITF file", "gdal_translate {name} {stem}.tif"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "7z x {name}"),
    (b"\xfd7zXZ\0", "compressed by xz", "unxz --keep {name}"),
    (b"BZh", "compressed by bzip2", "bunzip2 --keep {name}"),
)
ZARR = {"zarr.json", ".zgroup", ".zarray", ".zmetadata"}
ZIP, GZIP, NUMPY = b"PK\x03\x04", b"\x1f\x8b", b"\x93NUMPY"
VRT = re.compile(rb"\s*(<\?xml[^>]*>\s*)?<VRTDataset")
TAR_MARK, TAR_AT, TAR_NAME = b"ustar", 257, 100
END_OF_ZIP, END_BYTES = b"PK\x05\x06", 65_557
MOST_DIRECTORY = 4 * 1024**2  # bytes of a zip's directory that are read
# Likely descriptions of a product, then likely cubes.
WANTED = (r"metadata\.xml$", r"\.(he5|h5|hdf5|nc)$", r"\.hdr$", r"\.tiff?$")


def refusal(path: Path, start: bytes) -> str:
    """Say what a file is that is not read, and what to do; empty for what is unknown.

    Args:
        path: The file.
        start: Its first bytes.
    """
    if start.startswith(ZIP):
        return _archive(path, "a zip archive", f"unzip {path.name}", _of_zip(path))
    if start.startswith(GZIP):
        first = _first_of_tar(start)
        if first is None:
            return _sentence(path, "compressed by gzip", f"gunzip --keep {path.name}")
        return _archive(path, "a tar archive", f"tar -xzf {path.name}", first)
    if start[TAR_AT:].startswith(TAR_MARK):
        first = _text(start[:TAR_NAME])
        return _archive(path, "a tar archive", f"tar -xf {path.name}", first)
    if VRT.match(start):
        return (
            f"{path} is a VRT, which names other files; these are not followed. Make "
            f"one file of it: gdal_translate {path.name} {path.stem}.tif"
        )
    if start.startswith(NUMPY):
        return (
            f"{path} is an array of numpy, which states no bands and no place. Use it "
            "from Python, or write it to a GeoTIFF."
        )
    for beginning, what, command in BEGINNINGS:
        if start.startswith(beginning):
            filled = command.format(name=path.name, stem=path.stem)
            return _sentence(path, what, filled)
    if path.suffix.lower() in (".cu3s", ".cu3"):
        return (
            f"{path} is a session of a Cubert camera, which is not read. Export it as "
            "ENVI from the vendor's program."
        )
    return ""


def folder_refusal(folder: Path) -> str:
    """Say what a folder is that is not read, and what to do; empty for others."""
    if not any((folder / name).is_file() for name in ZARR):
        return ""
    return (
        f"{folder} is a Zarr store, which is not read. Convert it with xarray and "
        f'rioxarray: xarray.open_zarr("{folder.name}")["reflectance"].transpose('
        f'"wavelength", "y", "x").rio.to_raster("{folder.stem}.tif"), with the names '
        "that it uses, and add the wavelengths."
    )


def _sentence(path: Path, what: str, command: str) -> str:
    return f"{path} is {what}, which is not read. Convert it: {command}"


def _archive(path: Path, what: str, command: str, member: str) -> str:
    target = f"give {member}" if member else "give what was in it"
    return (
        f"{path} is {what}, which is not read. Extract it ({command}), then {target}."
    )


def _text(raw: bytes) -> str:
    """Return a name in an archive, without what a terminal would obey."""
    name = raw.split(b"\0")[0].decode("utf-8", "replace")
    return "".join(c if c.isprintable() else "?" for c in name)


def _first_of_tar(start: bytes) -> str | None:
    """Return the first name in a compressed tar archive; None if it is none."""
    try:
        head = zlib.decompressobj(31).decompress(start, TAR_AT + len(TAR_MARK))
    except zlib.error:
        return None
    return _text(head[:TAR_NAME]) if head[TAR_AT:] == TAR_MARK else None


def _of_zip(path: Path) -> str:
    """Return the member of a zip archive to extract and give, or an empty text.

    Its directory is read, whose size is bounded; no member is.
    """
    with open_binary(path) as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - END_BYTES))
        tail = file.read()
        at = tail.rfind(END_OF_ZIP)
        if at < 0 or len(tail) < at + 20:
            return ""
        (directory,) = struct.unpack_from("<I", tail, at + 12)
        if directory > MOST_DIRECTORY:
            return ""
        try:
            with zipfile.ZipFile(file) as archive:
                names = sorted(archive.namelist())
        except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError):
            return ""
    for pattern in WANTED:
        for name in names:
            if re.search(pattern, name, re.IGNORECASE):
                return _text(name.encode("utf-8", "replace"))
    return ""
