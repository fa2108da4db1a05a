import abundances
import common
import numpy as np
import torch

from hsi_train.methods.s2vnet import Method

BANDS, CLASSES = 12, 3


def test_agreement_counts_labelled_pixels_at_their_own_place() -> None:
    method = common.make_method("s2vnet", BANDS, CLASSES)
    assert isinstance(method, Method)
    rng = np.random.default_rng(0)
    cube = rng.integers(500, 4000, (BANDS, 9, 7)).astype(np.int16)
    halo = abundances.HALO
    padded = np.pad(cube, ((0, 0), (halo, halo), (halo, halo)), mode="reflect")
    with torch.no_grad():
        graph = method.inference_graph()
        _, shares = graph(torch.from_numpy(padded.astype(np.float32))[None])
    classes = shares[0].argmax(dim=0).numpy()
    assert len(np.unique(classes)) > 1
    assert abundances.agreement(method, cube, classes) == 1
    wrong = classes.copy()
    wrong[:3] = (wrong[:3] + 1) % CLASSES
    assert abundances.agreement(method, cube, wrong) == 6 / 9
    wrong[:3] = -1  # without a label
    assert abundances.agreement(method, cube, wrong) == 1
