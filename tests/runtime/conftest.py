from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS

from hsi_runtime.model.model_file import ModelDocument, ModelFile, read_model
from hsi_runtime.output.journal import Journal
from hsi_runtime.output.layers import Canvas, Counts, layers
from hsi_runtime.output.names import paths_of
from hsi_runtime.output.publish import convert, publish
from hsi_runtime.scenes.scene import SceneInfo

NORTH_UP = Affine(2, 0, 4e5, 0, -2, 58e5)
ALL = ("classes", "confidence", "probabilities")


@pytest.fixture(scope="session")
def model(
    write_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> ModelFile:
    """Return the model that `conv_oracle` evaluates."""
    return read_model(write_model(tmp_path_factory.mktemp("model") / "model.onnx"))


@pytest.fixture
def padded(cube: NDArray[Any]) -> NDArray[np.float32]:
    """Return the window that gives all of `cube`: ``(1, band, row, col)``."""
    edge = ((0, 0), (2, 2), (2, 2))
    return np.pad(cube, edge, mode="reflect").astype(np.float32)[None]


@pytest.fixture(scope="session")
def info_of() -> Callable[..., SceneInfo]:
    """Describe a scene of 4 bands in memory."""

    def describe(
        rows: int,
        cols: int,
        crs: str | None = "EPSG:32633",
        transform: Affine | None = NORTH_UP,
    ) -> SceneInfo:
        return SceneInfo(
            path=Path("scene.tif"),
            driver="memory",
            bands=4,
            rows=rows,
            cols=cols,
            dtype=np.dtype("uint16"),
            nodata=np.full(4, np.nan),
            good=np.ones(4, dtype=bool),
            block=(1, cols),
            crs=crs and CRS.from_string(crs).to_wkt(),
            transform=None if transform is None else transform.to_gdal(),
        )

    return describe


@pytest.fixture(scope="session")
def probabilities_of() -> Callable[..., NDArray[np.float32]]:
    """Make probabilities that look like those of a network."""

    def make(rows: int, cols: int, classes: int = 3) -> NDArray[np.float32]:
        random = np.random.default_rng(0).random((classes, rows, cols)) ** 4
        shares: NDArray[np.float32] = (random / random.sum(axis=0)).astype(np.float32)
        return shares

    return make


@pytest.fixture(scope="session")
def write_all(info_of: Callable[..., SceneInfo]) -> Callable[..., Counts]:
    """Write probabilities in four pieces, and publish."""

    def write(
        output: Path,
        document: ModelDocument,
        found: NDArray[np.float32],
        valid: NDArray[np.bool_] | None = None,
        wanted: tuple[str, ...] = ALL,
        info: SceneInfo | None = None,
        reject: float = 0.0,
        plan: dict[str, Any] | None = None,
    ) -> Counts:
        rows, cols = found.shape[1:]
        valid = np.ones((rows, cols), dtype=bool) if valid is None else valid
        counts = Counts([0] * len(document.classes))
        codes = [c.code for c in document.classes]
        tags = {"HSI_METHOD": 'a "method" <&>'}
        rasters = layers(document, wanted)
        pieces = [
            ((top, bottom), (left, right))
            for top, bottom in ((0, rows // 2), (rows // 2, rows))
            for left, right in ((0, cols // 3), (cols // 3, cols))
        ]
        with Journal(
            output, info or info_of(rows, cols), rasters, plan or {"scene": "s"}
        ) as journal:
            for number, (down, across) in enumerate(pieces):
                part = slice(*down), slice(*across)
                canvas = Canvas(rasters, codes, *valid[part].shape)
                if valid[part].any():
                    shares = {"probabilities": found[:, *part]}
                    canvas.paint(0, 0, shares, valid[part], reject)
                if number not in journal.pieces:
                    journal.write(number, down, across, canvas.values, canvas.counts())
            for piece in journal.pieces.values():
                counts.add(piece.counts)
            finished = convert(journal, tags, "deflate")
            publish(journal, finished, paths_of(output), overwrite=True)
            journal.remove()
        return counts

    return write


@pytest.fixture
def open_journal(
    document: ModelDocument, tmp_path: Path, info_of: Callable[..., SceneInfo]
) -> Callable[..., Journal]:
    """Describe the journal of a class map of 6 x 9 pixels."""

    def describe(plan: dict[str, Any] | None = None, **options: Any) -> Journal:
        rasters = layers(document, ["classes", "probabilities"])
        plan = {"scene": "s", "tile": 1} if plan is None else plan
        return Journal(tmp_path / "o.tif", info_of(6, 9), rasters, plan, **options)

    return describe


class Place(NamedTuple):
    """A folder with a good scene and a good model, and the means to make bad ones."""

    folder: Path
    write_scene: Callable[..., Path]
    write_model: Callable[..., Path]
    document: ModelDocument
    cube: NDArray[Any]

    @property
    def scene(self) -> Path:
        return self.folder / "scene.tif"

    @property
    def model(self) -> Path:
        return self.folder / "model.onnx"


@pytest.fixture
def place(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write_scene_tiff: Callable[..., Path],
    write_model: Callable[..., Path],
    document: ModelDocument,
    cube: NDArray[Any],
) -> Place:
    made = Place(tmp_path, write_scene_tiff, write_model, document, cube)
    made.write_scene(made.scene, cube)
    made.write_model(made.model)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HSI_MODEL", raising=False)
    return made


@pytest.fixture
def masked_scene(
    tmp_path: Path, cube: NDArray[Any], write_scene_tiff: Callable[..., Path]
) -> Path:
    """Write a scene whose pixel in row 4 and column 5 has no data."""
    stored = cube.copy()
    stored[:, 4, 5] = 0
    return write_scene_tiff(tmp_path / "s.tif", stored, nodata=0)
