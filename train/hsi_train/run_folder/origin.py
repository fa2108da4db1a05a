"""What a run depends on: files, recipe and versions."""

import hashlib
import importlib.metadata
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from hsi_runtime.errors import SceneError
from hsi_runtime.scenes.opening import open_raster, open_scene
from hsi_runtime.scenes.scene import Scene
from hsi_train import recipe
from hsi_train.data import matlab
from hsi_train.data.loading import expand_scenes
from hsi_train.data.spectra.reading import files_of as spectra_files
from hsi_train.recipe import Recipe

# Endings of files beside a scene or a label file that belong to it.
SIDE_CARS = ("hdr", "aux.xml", "dbf", "shx", "prj", "cpg", "tfw", "wld", "msk")
ENVI_DATA = ("sli", "dat", "img", "raw", "bin", "bsq", "bil", "bip")  # beside a header

Stamp = tuple[int, int]  # bytes, time of the last change in ns


def training_files(settings: Recipe) -> list[Path]:
    """List the files that train a network."""
    data = settings.data
    sources = [*data.labels, *settings.split.files, data.classes or ""]
    sources += [str(file) for file in data.references if file is not None]
    for path in data.spectra or ():
        sources += spectra_files(recipe.expanded(path))
    given = [*data.scenes, *filter(None, [data.bands_of])]
    scenes = expand_scenes([recipe.expanded(p) for p in given])
    if settings.pretrain is not None:
        given = [recipe.expanded(p) for p in settings.pretrain.scenes]
        scenes += expand_scenes(given)
        sources.append(settings.pretrain.init or "")
    return files_of(scenes, map(recipe.expanded, filter(None, sources)))


def target_files(settings: Recipe) -> list[Path]:
    """List the files of the target, which train nothing."""
    target = settings.target
    if target is None:
        return []
    scenes = expand_scenes([recipe.expanded(p) for p in target.scenes])
    sources = [*target.labels, target.classes or ""]
    return files_of(scenes, map(recipe.expanded, filter(None, sources)))


def files_of(scenes: Iterable[str], others: Iterable[str] = ()) -> list[Path]:
    """List the files of scenes and labels, with those beside them that belong to them.

    A file that is missing is left out: whoever reads it has the better message.

    Args:
        scenes: Scenes, as training opens them.
        others: Labels and any other files.
    """
    found: set[Path] = set()
    listings: dict[Path, list[Path]] = {}
    openers = [(name, open_scene) for name in scenes]
    openers += [(name, open_raster) for name in others]
    for name, open_file in openers:
        path = Path(matlab.split_name(name)[0])
        if not os.path.isfile(path):  # nor has a name too long
            continue
        if path.parent not in listings:
            listings[path.parent] = [p for p in path.parent.iterdir() if p.is_file()]
        own = {f"{base}.{e}" for base in (path.name, path.stem) for e in SIDE_CARS}
        if path.suffix.lower() == ".hdr":
            own |= {path.stem, *(f"{path.stem}.{e}" for e in ENVI_DATA)}
        own.add(f"{path.name}-wal")  # changes of a GeoPackage that is open elsewhere
        beside = {other.lower() for other in own}
        found |= {p for p in listings[path.parent] if p.name.lower() in beside}
        found.add(path)
        if not matlab.is_matlab(name):
            found |= _read_beside(path, open_file)
    return sorted(found)


def _read_beside(path: Path, open_file: Callable[[Path], Scene]) -> set[Path]:
    """List the files that a scene says it is read from, such as those of a product."""
    try:
        scene = open_file(path)
    except SceneError:  # no raster; or one that whoever reads it will tell of
        return set()
    scene.close()
    return {other for other in scene.info.files if other.is_file()}


def stamps(paths: Iterable[Path]) -> dict[Path, Stamp]:
    """Note size and time of files, to tell whether they change while they are read."""
    status = {path: path.stat() for path in paths}
    return {path: (s.st_size, s.st_mtime_ns) for path, s in status.items()}


def digests(before: Mapping[Path, Stamp]) -> dict[Path, str]:
    """Hash files.

    Args:
        before: What `stamps` returned before the files were read.

    Raises:
        SceneError: A file has changed since.
    """
    out = {}
    for path, stamp in before.items():
        try:
            with path.open("rb") as file:
                out[path] = hashlib.file_digest(file, "sha256").hexdigest()
            same = stamps([path])[path] == stamp
        except OSError as error:
            raise SceneError(f"{path} cannot be read: {error.strerror}.") from error
        if not same:
            raise SceneError(
                f"{path} changed while it was read. Start again when it is complete."
            )
    return out


def by_name(files: Mapping[Path, str]) -> dict[str, str]:
    """Name each file's digest by its name, or by its path if two have one name."""
    names = [path.name for path in files]
    return {
        path.name if names.count(path.name) == 1 else str(path): digest
        for path, digest in files.items()
    }


def origin_of(
    settings: Recipe, files: Mapping[Path, str], precision: str
) -> dict[str, Any]:
    """Collect what must be the same when a run is resumed.

    Args:
        settings: The recipe, complete.
        files: SHA-256 of every file that is read.
        precision: Type in which products are computed, which depends on the machine.
    """
    return {
        "recipe": recipe.dump(settings),
        "files": {str(path): digest for path, digest in files.items()},
        "versions": {
            "hsi-edge": importlib.metadata.version("hsi-edge"),
            "torch": str(torch.__version__),
            "precision": precision,
        },
    }
