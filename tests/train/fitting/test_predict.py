from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hsi_train import methods
from hsi_train.data.labelled_scene import LabelledData
from hsi_train.data.roles import Role
from hsi_train.fitting import predict, statistics
from hsi_train.splitting import split

MakeData = Callable[..., LabelledData]
CPU = torch.device("cpu")


class NearestLevel(nn.Module):
    """Scores by the mean of a 3 x 3 window in two bands; halo 1."""

    def forward(self, cube: Tensor) -> Tensor:
        assert not self.training
        mean = nn.functional.avg_pool2d(cube[:, :2], 3, stride=1)
        return torch.cat([mean, 500 * torch.ones_like(mean[:, :1])], dim=1)


def scorer(fill: float = 0.0) -> predict.Scorer:
    network = NearestLevel().eval()
    return predict.Scorer(network=network, fill=np.full(5, fill), halo=1, device=CPU)


def data_of(make_data: MakeData, rows: int, cols: int) -> LabelledData:
    return make_data(np.random.default_rng(0).integers(0, 4, (rows, cols)))


@pytest.mark.parametrize(
    "shape", [(5, 7), (64, 64), (65, 63), (130, 70), (1, 1), (2, 90)]
)
def test_tiles_equal_the_whole_scene_mirrored(
    make_data: MakeData, shape: tuple[int, int]
) -> None:
    data = make_data(np.full(shape, 1))
    scene = data.scenes[0]
    wanted = np.ones(shape, dtype=bool)
    found = scorer().classes(scene, wanted)
    mode = "reflect" if min(shape) > 1 else "edge"
    padded = np.pad(scene.cube, ((0, 0), (1, 1), (1, 1)), mode=mode)  # type: ignore[call-overload]
    if shape == (1, 1) or min(shape) > 1:
        with torch.inference_mode():
            scores = NearestLevel().eval()(torch.from_numpy(padded)[None])
        np.testing.assert_array_equal(found, scores[0].argmax(0).numpy())


def test_only_tiles_with_a_wanted_pixel_are_computed(make_data: MakeData) -> None:
    data = data_of(make_data, 130, 130)
    wanted = np.zeros((130, 130), dtype=bool)
    wanted[100, 70] = True
    found = scorer().classes(data.scenes[0], wanted)
    assert (found[64:128, 64:128] >= 0).all()
    found[64:128, 64:128] = -1
    assert (found == -1).all()


def test_invalid_pixels_are_filled(make_data: MakeData) -> None:
    valid = np.ones((9, 9), dtype=bool)
    valid[4, 4] = False
    data = make_data(np.ones((9, 9), dtype=int), valid=valid)
    scene = data.scenes[0]
    scene.cube[:, ~valid] = np.nan
    found = scorer(fill=7e5).classes(scene, valid)
    assert (found[3:6, 3:6] != 2).all()  # the fill outweighs the third class


def test_confusion_of_each_role(make_data: MakeData) -> None:
    data = data_of(make_data, 40, 33)
    data = split.per_class(data, 20, 0)
    network = scorer().network
    whole = scorer().classes(data.scenes[0], data.scenes[0].roles > 0)
    network.train()
    for role in (Role.TRAIN, Role.TEST, Role.VALIDATION):
        matrix = replace(scorer(), network=network).score(data, role).confusion()
        pixels = data.scenes[0].roles == role
        expected = np.zeros((3, 3), dtype=int)
        np.add.at(expected, (data.scenes[0].classes[pixels], whole[pixels]), 1)
        np.testing.assert_array_equal(matrix, expected)
    assert network.training  # as it was before


@pytest.mark.parametrize("shape", [(66, 13), (12, 30)])
def test_output_maps_equal_the_graph_on_the_whole_scene(
    make_data: MakeData, shape: tuple[int, int]
) -> None:
    data = data_of(make_data, *shape)
    data = split.per_class(data, 4, 0)
    problem = statistics.describe_problem(data)
    method = methods.build("s2vnet", problem, {}).eval()
    scene, halo = data.scenes[0], method.halo
    padding = ((0, 0), (halo, halo), (halo, halo))
    padded = np.pad(scene.cube, padding, mode="reflect")
    with torch.inference_mode():
        expected = method.inference_graph()(torch.from_numpy(padded)[None])
    for name, values in zip(method.outputs, expected, strict=True):
        found = predict.output_maps(method, name, scene, scene.valid, CPU)
        assert found.shape == (len(data.classes), *shape)
        np.testing.assert_allclose(found, values[0].numpy(), atol=1e-5)


def test_output_maps_leave_out_tiles_without_a_wanted_pixel(
    make_data: MakeData,
) -> None:
    data = data_of(make_data, 20, 100)
    data = split.per_class(data, 4, 0)
    problem = statistics.describe_problem(data)
    method = methods.build("s2vnet", problem, {}).eval()
    wanted = np.zeros((20, 100), dtype=bool)
    wanted[3, 80] = True
    found = predict.output_maps(method, "abundances", data.scenes[0], wanted, CPU)
    assert np.isnan(found[:, :, :64]).all()
    assert np.isfinite(found[:, :, 64:]).all()


def test_class_and_confidence_are_those_of_the_exported_graph(
    make_data: MakeData,
) -> None:
    data = data_of(make_data, 20, 100)
    data = split.per_class(data, 4, 0)
    problem = statistics.describe_problem(data)
    method = methods.build("s2vnet", problem, {}).eval()
    scene = data.scenes[0]
    shares = predict.output_maps(method, "probabilities", scene, scene.valid, CPU)
    classes, confidence = predict.class_and_confidence(method, scene, scene.valid, CPU)
    np.testing.assert_array_equal(classes, shares.argmax(axis=0))
    np.testing.assert_array_equal(confidence, shares.max(axis=0))
    wanted = np.zeros((20, 100), dtype=bool)
    wanted[3, 80] = True
    part, sure = predict.class_and_confidence(method, scene, wanted, CPU)
    np.testing.assert_array_equal(part[:, 64:], classes[:, 64:])
    assert (part[:, :64] == -1).all()
    assert np.isnan(sure[:, :64]).all()
