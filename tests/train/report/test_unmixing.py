import base64
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba
from numpy.typing import NDArray
from PIL import Image, ImageColor

from hsi_train import methods
from hsi_train.data.labelled_scene import LabelledData
from hsi_train.fitting import predict
from hsi_train.fitting import statistics as patches
from hsi_train.method import BaseMethod
from hsi_train.report import unmixing
from hsi_train.report.pictures import NODATA, SHARE_COLORS, SHARE_STEPS
from hsi_train.report.spectra import spectral_axis
from hsi_train.splitting import split

MakeData = Callable[..., LabelledData]
ReadPage = Callable[[str], Any]

CPU = torch.device("cpu")
BANDS = 8


def data_of(make_data: MakeData, scenes: int = 1) -> LabelledData:
    rng = np.random.default_rng(0)
    valid = np.ones((14, 19), dtype=bool)
    valid[3, 5] = False
    codes = [rng.integers(0, 4, valid.shape) for _ in range(scenes)]
    return make_data(*codes, bands=BANDS, valid=valid)


def method_of(data: LabelledData, name: str = "s2vnet") -> BaseMethod:
    data = split.per_class(data, 5, 0)
    torch.manual_seed(0)
    problem = patches.describe_problem(data)
    return methods.build(name, problem, {}).eval()


def picture_of(uri: str, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Read a picture back, one pixel for each of the scene."""
    data = base64.b64decode(uri.split(",")[1])
    picture = np.asarray(Image.open(io.BytesIO(data)))
    factor = picture.shape[0] // shape[0]
    assert picture.shape == (shape[0] * factor, shape[1] * factor, 3)
    return picture[::factor, ::factor]


def test_a_method_that_does_not_unmix_has_no_section(make_data: MakeData) -> None:
    data = data_of(make_data)
    method = method_of(data, "mf2cnet")
    assert not unmixing.unmixing(method, data, CPU)


def test_an_endmember_is_compared_with_its_class(make_data: MakeData) -> None:
    axis = spectral_axis(data_of(make_data))
    spectrum = np.linspace(150, 420, BANDS, dtype=np.float32)
    mean = np.linspace(100.0, 400.0, BANDS)
    drawn = unmixing.draw_endmember(axis, spectrum, mean, "#cc3311")
    plot: Any = drawn.axes[0]
    endmember, compared = plot.lines
    np.testing.assert_array_equal(endmember.get_ydata(), axis.values(spectrum))
    np.testing.assert_array_equal(compared.get_ydata(), axis.values(mean))
    (shade,) = plot.collections
    assert shade.get_facecolor()[0].tolist() == pytest.approx(to_rgba("#cc3311", 0.55))
    assert plot.get_ylim()[0] == 0


def test_every_class_has_an_endmember_and_a_map(
    make_data: MakeData, read_page: ReadPage
) -> None:
    data = data_of(make_data)
    method = method_of(data)
    page = read_page(unmixing.unmixing(method, data, CPU))
    names = [c.name for c in data.classes]
    assert [image["alt"] for image in page.all("img")] == [
        *(f"Endmember of class {name}" for name in names),
        *(f"Abundance of {name} in memory.tif" for name in names),
    ]


def test_maps_are_the_methods_own_answers(
    make_data: MakeData, read_page: ReadPage
) -> None:
    data = data_of(make_data)
    method = method_of(data)
    page = read_page(unmixing.unmixing(method, data, CPU))
    scene = data.scenes[0]
    expected = predict.output_maps(method, "abundances", scene, scene.valid, CPU)
    colors = np.array([ImageColor.getrgb(c) for c in SHARE_COLORS])
    for image, shares in zip(page.all("img")[3:], expected, strict=True):
        painted = picture_of(image["src"], scene.valid.shape)
        wanted = colors[np.rint(SHARE_STEPS * shares).astype(int)]
        wanted[~scene.valid] = ImageColor.getrgb(NODATA)
        np.testing.assert_array_equal(painted, wanted)


def test_only_some_scenes_are_drawn(
    make_data: MakeData, read_page: ReadPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = data_of(make_data, unmixing.MAX_SCENES + 1)
    method = method_of(data)

    def headings() -> int:
        section = unmixing.unmixing(method, data, CPU)
        return len(read_page(section).all("h3"))

    assert headings() == unmixing.MAX_SCENES
    monkeypatch.setattr(unmixing, "MAX_PIXELS", 10)
    assert headings() == 0
