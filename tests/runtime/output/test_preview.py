from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from small_model import with_classes

from hsi_runtime.model.model_file import ClassEntry, ModelDocument
from hsi_runtime.output.layers import Counts
from hsi_runtime.output.preview import INK, MARGIN, PAPER, _scale_bar, write_preview

Write = Callable[..., Path]
COLORS = {2: (0, 0xAA, 0), 3: (0x80, 0x40, 0), 7: (0, 0, 255), 0: (0, 0, 0), 255: PAPER}


def drawn(
    tmp_path: Path, write: Write, document: ModelDocument, codes: Any, **options: Any
) -> NDArray[np.uint8]:
    source = write(tmp_path / "o.tif", np.array(codes)[None], None, None, **options)
    counts = Counts(
        [int((codes == c.code).sum()) for c in document.classes],
        unclassified=int((codes == 0).sum()),
    )
    write_preview(source, tmp_path / "o.png", document, counts)
    assert {p.name for p in tmp_path.iterdir()} == {"o.tif", "o.png"}
    with Image.open(tmp_path / "o.png") as image:
        assert image.mode == "RGB"
        return np.array(image)


@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:4326", None])
def test_pixels_have_the_colours_of_their_classes(
    crs: str | None, tmp_path: Path, write_scene_tiff: Write, document: ModelDocument
) -> None:
    codes = np.random.default_rng(0).choice([2, 3, 7, 0, 255], (300, 250))
    picture = drawn(
        tmp_path, write_scene_tiff, document, codes.astype(np.uint8), crs=crs
    )
    found = picture[MARGIN : MARGIN + 300, MARGIN : MARGIN + 250]
    table = np.array([COLORS.get(c, PAPER) for c in range(256)], dtype=np.uint8)
    np.testing.assert_array_equal(found, table[codes])
    # A scale bar only where metres are known.
    below = picture[MARGIN + 300 :, : MARGIN + 250]
    assert (below == INK).all(axis=2).any() == (crs == "EPSG:32633")


def test_small_maps_are_enlarged_by_whole_factors(
    tmp_path: Path, write_scene_tiff: Write, document: ModelDocument
) -> None:
    codes = np.array([[2, 3], [7, 255]], dtype=np.uint8)
    picture = drawn(tmp_path, write_scene_tiff, document, codes)
    found = picture[MARGIN : MARGIN + 480, MARGIN : MARGIN + 480]
    expected = np.array([[COLORS[c] for c in row] for row in codes], dtype=np.uint8)
    np.testing.assert_array_equal(found, np.kron(expected, np.ones((240, 240, 1))))


@pytest.mark.parametrize("shape", [(1, 1), (1, 2000), (2000, 1), (1700, 900)])
def test_any_shape_is_drawn(
    shape: tuple[int, int],
    tmp_path: Path,
    write_scene_tiff: Write,
    document: ModelDocument,
) -> None:
    picture = drawn(
        tmp_path, write_scene_tiff, document, np.full(shape, 2, dtype=np.uint8)
    )
    assert max(picture.shape) < 2300
    assert (picture == COLORS[2]).all(axis=2).any()


def test_legend_names_many_classes_and_far_codes(
    tmp_path: Path, write_scene_tiff: Write, document: ModelDocument
) -> None:
    classes = [
        ClassEntry(code=1000 + n, name=f"Klasse {n} 草", color=f"#{n:02x}4080")
        for n in range(40)
    ]
    described = with_classes(document, classes)
    codes = np.random.default_rng(0).integers(1000, 1040, (50, 50)).astype(np.uint16)
    picture = drawn(tmp_path, write_scene_tiff, described, codes)
    legend = {tuple(p) for p in picture[:, -300:].reshape(-1, 3).tolist()}
    assert {(n, 0x40, 0x80) for n in range(40)} <= legend


@given(st.floats(1e-6, 1e8), st.integers(240, 1600))
def test_scale_bar_of_any_length_fits(metres: float, width: int) -> None:
    sheet = Image.new("RGB", (width + 100, 100), PAPER)
    _scale_bar(sheet, width, 10, metres)
    dark = (np.array(sheet) == INK).all(axis=2)
    columns = np.flatnonzero(dark[10 + 14])
    assert columns.size > 0
    assert columns.min() >= MARGIN - 3


def test_scale_bar_measures_right(
    tmp_path: Path, write_scene_tiff: Write, document: ModelDocument
) -> None:
    codes = np.full((300, 400), 2, dtype=np.uint8)  # 2 m: 800 m, so 200 m = 100 px
    picture = drawn(tmp_path, write_scene_tiff, document, codes)
    line = (picture[MARGIN + 300 + 14, : MARGIN + 110] == INK).all(axis=1)
    columns = np.flatnonzero(line)
    assert abs(columns.max() - columns.min() - 100) <= 4
    with rasterio.open(tmp_path / "o.tif") as file:
        assert file.transform.a == 2
