import warnings
from collections.abc import Callable
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning

from hsi_runtime.model.model_file import ClassEntry
from hsi_runtime.scenes.scene import SceneInfo
from hsi_train import cli as train_cli
from hsi_train.data.labelled_scene import UNLABELLED, LabelledData, LabelledScene
from hsi_train.simulate import SceneSpec, band_centres, write_scene

WEST_M, NORTH_M = 400_000.0, 5_800_000.0


class Example(NamedTuple):
    scene: Path
    labels: Path


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny networks gain nothing from threads, and lose much on a busy machine."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def cli(invoke: Callable[..., Any]) -> Callable[..., Any]:
    """Run hsi-train in this process, with its real exit codes."""
    return partial(invoke, train_cli.main)


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Example:
    """Three materials, 12 bands, 40 x 40 pixels, all of them labelled."""
    folder = tmp_path_factory.mktemp("example")
    scene, labels = folder / "scene.tif", folder / "labels.tif"
    spec = SceneSpec(
        rows=40,
        cols=40,
        wavelengths_nm=band_centres(12),
        materials=("grass", "bright_soil", "water"),
        resolution_m=8.0,
        seed=5,
    )
    write_scene(spec, scene, truth=labels)
    return Example(scene, labels)


def info_of(
    rows: int, cols: int, bands: int, dtype: str = "float32", **more: Any
) -> SceneInfo:
    settings: dict[str, Any] = {
        "path": Path("memory.tif"),
        "driver": "memory",
        "nodata": np.full(bands, np.nan),
        "good": np.ones(bands, dtype=bool),
        "block": (rows, cols),
    }
    return SceneInfo(
        bands=bands, rows=rows, cols=cols, dtype=np.dtype(dtype), **settings | more
    )


@pytest.fixture
def make_info() -> Callable[..., SceneInfo]:
    return info_of


@pytest.fixture
def make_data() -> Callable[..., LabelledData]:
    """Build labelled data from arrays of label codes, 0 = unlabelled.

    Spectra are separable: each class has a level of its own in every band.
    """

    def make(
        *codes: NDArray[Any],
        bands: int = 5,
        seed: int = 0,
        valid: NDArray[np.bool_] | None = None,
        cubes: list[NDArray[Any]] | None = None,
    ) -> LabelledData:
        rng = np.random.default_rng(seed)
        present = np.unique(np.concatenate([c.ravel() for c in codes]))
        present = present[present > 0]
        levels = rng.uniform(100, 1000, (len(present) + 1, bands))
        scenes = []
        for number, array in enumerate(codes):
            known = np.ones(array.shape, dtype=bool) if valid is None else valid
            index = np.searchsorted(present, array).astype(np.int16)
            index[(array == 0) | ~known] = UNLABELLED
            cube = np.moveaxis(levels[index], 2, 0)  # unlabelled: the last level
            cube = (cube + rng.normal(0, 20, cube.shape)).astype(np.float32)
            if cubes is not None:
                cube = cubes[number]
            info = info_of(array.shape[0], array.shape[1], bands)
            roles = np.zeros(index.shape, dtype=np.uint8)
            scenes.append(LabelledScene(info, 0, 0, cube, known, index, roles))
        classes = [
            ClassEntry(
                code=int(code), name=f"class {code}", color=f"#{40 * n + 15:02x}8040"
            )
            for n, code in enumerate(present)
        ]
        return LabelledData(scenes, classes, np.arange(bands), [], [True] * len(scenes))

    return make


@pytest.fixture
def write_tif() -> Callable[..., Path]:
    """Write a GeoTIFF of one or more bands; keywords go to rasterio."""

    def write(
        path: Path,
        values: NDArray[Any],
        *,
        origin: tuple[float, float] | None = (WEST_M, NORTH_M),
        step: float = 1.0,
        tags: list[dict[str, str]] | None = None,
        **profile: Any,
    ) -> Path:
        cube = values if values.ndim == 3 else values[None]
        if origin is not None:
            profile.setdefault("crs", "EPSG:32633")
            profile["transform"] = rasterio.Affine(
                step, 0, origin[0], 0, -step, origin[1]
            )
        count, rows, cols = cube.shape
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(
                path, "w", driver="GTiff", count=count, height=rows, width=cols,
                dtype=cube.dtype, **profile,
            ) as file:  # fmt: skip
                file.write(cube)
                for band, content in enumerate(tags or [], start=1):
                    file.update_tags(band, **content)
        return path

    return write


VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """What a browser makes of HTML; tags that are not closed in turn are an error.

    ``text`` is without the style, ``rows`` the cells of all tables, ``tags`` the
    attributes of each tag.
    """

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(content)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.text += data
        if {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def read_page() -> Callable[[str], Page]:
    """Parse a page, or a piece of one."""
    return Page
