from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsi_train.linear.gate import (
    GATES,
    choose_gate,
    choose_share,
    loss_of,
    unjudged_classes,
)


def scores(classes: NDArray[Any], right: float, seed: int) -> NDArray[Any]:
    """Scores that are right for about this share of the pixels."""
    rng = np.random.default_rng(seed)
    wrong = rng.random(len(classes)) > right
    said = np.where(wrong, (classes + 1) % 3, classes)
    return 3 * np.eye(3)[said]


CLASSES = np.arange(600) % 3


def test_a_network_that_helps_is_let_in() -> None:
    path, network = scores(CLASSES, 0.7, 0), scores(CLASSES, 0.95, 1)
    assert choose_gate(path, 2 * network, CLASSES).factor > 0


def test_a_network_that_harms_is_shut_out() -> None:
    path, network = scores(CLASSES, 0.9, 0), scores(CLASSES, 0.4, 1)
    assert choose_gate(path, 2 * network, CLASSES).factor == 0


def test_rare_classes_must_not_lose() -> None:
    classes = np.where(np.arange(600) < 590, np.arange(600) % 2, 2)
    path = scores(classes, 0.8, 0)
    path[classes == 2] = [0, 0, 3]
    network = 20.0 * np.eye(3)[np.minimum(classes, 1)]  # never says the rare class
    assert choose_gate(path, network, classes).factor == 0


def test_being_less_sure_is_no_merit_where_the_map_is_worse() -> None:
    path = 10 * scores(CLASSES, 0.8, 0)  # too sure: each wrong pixel costs thirty
    doubtful = scores(CLASSES, 0.7, 1)
    factor = choose_gate(path, doubtful - path, CLASSES).factor
    joined = path + factor * (doubtful - path)
    assert 0 < factor < 1
    np.testing.assert_array_equal(joined.argmax(axis=1), path.argmax(axis=1))


def test_classes_with_few_held_out_pixels_do_not_judge() -> None:
    assert unjudged_classes(np.array([10, 4, 0, 5, 0])) == (1, 2, 4)


def test_few_held_out_pixels_tell_nothing() -> None:
    classes = CLASSES[:90]
    path, network = scores(classes, 0.5, 0), scores(classes, 1.0, 1)
    assert choose_gate(path, network, classes).factor == 0


def test_a_path_that_is_nearly_always_right_stays_alone() -> None:
    path, network = scores(CLASSES, 0.995, 0), scores(CLASSES, 1.0, 1)
    assert choose_gate(path, network, CLASSES).factor == 0


def test_a_fitted_head_has_the_share_of_the_least_loss() -> None:
    classes = CLASSES[:30]
    path, head = scores(classes, 0.7, 0), scores(classes, 0.95, 1)
    chosen = choose_share(path, head, classes)
    losses = {s: loss_of((1 - s) * path + s * head, classes) for s in GATES}
    assert chosen == min(losses, key=losses.__getitem__) > 0


def test_a_fitted_head_may_not_cost_a_pixel() -> None:
    classes = CLASSES[:30]
    path = 3 * np.eye(3)[classes]  # sure of one wrong pixel, and right on all others
    path[0] = [0, 300, 0]
    head = np.tile(np.array([40.0, 30.0, 30.0]), (30, 1))
    assert loss_of(0.75 * path + 0.25 * head, classes) < loss_of(path, classes)
    assert choose_share(path, head, classes) == 0
