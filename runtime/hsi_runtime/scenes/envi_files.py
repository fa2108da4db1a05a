"""Finds the two files of an ENVI scene, header and data, from the name of either."""

from pathlib import Path

from hsi_runtime.errors import SceneError
from hsi_runtime.files import open_binary
from hsi_runtime.scenes.envi_header import is_header, layout_of, read_header

DATA_SUFFIXES = ("", ".img", ".dat", ".raw", ".bsq", ".bil", ".bip", ".bin", ".sli")

HEADER_SUFFIXES = (".hdr", ".HDR", ".Hdr")


def find_envi(path: Path, magic: bytes) -> tuple[Path, Path] | None:
    """Find the header and data file of a scene.

    Returns:
        Header path and data path, or None where ``path`` does not belong to an ENVI
        scene.

    Raises:
        SceneError: A header without its data file, or with several.
    """
    if is_header(magic):
        return path, _data_of(path)
    header = header_beside(path)
    return None if header is None else (header, path)


def header_beside(path: Path, list_folder: bool = True) -> Path | None:
    """Find the header of a data file: NAME.img.hdr before NAME.hdr.

    Args:
        path: The data file.
        list_folder: Find names of any case, which takes a listing of the folder. A
            folder of many scenes is not listed for each of them.
    """
    for name in (path.name, path.stem):
        headers = [path.with_name(name + suffix) for suffix in HEADER_SUFFIXES]
        if list_folder:
            headers += _named(path.parent, f"{name}.hdr")
        for header in headers:
            if header.is_file() and header != path and _starts_as_header(header):
                return header
    return None


def _data_of(header: Path) -> Path:
    """Find the data file of a header.

    It has the header's name with a usual suffix or none; else one of any suffix serves
    if its length is the one that the header promises. A file with a header of its own
    is another scene's.
    """
    stem = header.stem if header.suffix.lower() == ".hdr" else header.name
    usual = [
        data
        for suffix in DATA_SUFFIXES
        for data in _named(header.parent, stem + suffix)
        if _belongs(data, header)
    ]
    if not usual:
        needed = layout_of(read_header(header)).needed
        usual = [
            data
            for data in sorted(header.parent.glob(f"{_escaped(stem)}.*"))
            if _belongs(data, header) and data.stat().st_size == needed
        ]
    if len(usual) > 1:
        raise SceneError(
            f"{header} may be the header of {' or '.join(d.name for d in usual)}; give "
            "the data file that is meant in place of the header."
        )
    if not usual:
        raise SceneError(
            f"{header} is an ENVI header, but its data file is missing; expected it "
            f"beside the header, as {stem} or {stem}.img."
        )
    return usual[0]


def _belongs(data: Path, header: Path) -> bool:
    """Return True if a file may be the data of a header and has no other header."""
    if data == header or not data.is_file() or _starts_as_header(data):
        return False
    own = header_beside(data)
    return own is None or own.samefile(header)


def _named(folder: Path, name: str) -> list[Path]:
    """List the files of a name, as it is or else in another case."""
    exact = folder / name
    if exact.is_file():
        return [exact]
    lower = name.lower()
    try:
        return sorted(
            path
            for path in folder.iterdir()
            if path.name.lower() == lower and path.is_file()
        )
    except OSError:  # a folder that may be entered but not listed
        return []


def _escaped(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _starts_as_header(path: Path) -> bool:
    with open_binary(path) as file:
        return is_header(file.read(8))
