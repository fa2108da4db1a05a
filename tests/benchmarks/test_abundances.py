import abundances
import common
import numpy as np
import torch

from hsi_train.methods.s2vnet import Method

CLASSES = 3


def test_agreement_counts_labelled_pixels_only() -> None:
    method = common.make_method("s2vnet", CLASSES, CLASSES)
    assert isinstance(method, Method)
    # The endmember of the brightest band has the largest abundance.
    method.network.encoder = torch.nn.Sequential()
    cube = np.random.default_rng(0).integers(500, 4000, (CLASSES, 9, 7), dtype=np.int16)
    classes = cube.argmax(axis=0)
    assert abundances.agreement(method, cube, classes) == 1
    classes[:3] = (classes[:3] + 1) % CLASSES
    assert abundances.agreement(method, cube, classes) == 6 / 9
    classes[:3] = -1
    assert abundances.agreement(method, cube, classes) == 1
