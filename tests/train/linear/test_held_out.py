import numpy as np
from labelled import labelled_data, labelled_scene

from hsi_train.data.labelled_scene import LabelledData
from hsi_train.data.roles import Role
from hsi_train.linear.folds import FOLDS
from hsi_train.linear.held_out import hold_out, leave_out


def few() -> LabelledData:
    """Twenty training pixels of each of two classes, and one of a third."""
    classes = np.arange(400).reshape(20, 20) % 2
    roles = np.full((20, 20), Role.TEST, np.uint8)
    roles[::5, ::2] = roles[::5, 1::2] = Role.TRAIN
    roles[2] = Role.VALIDATION
    classes[0, 0] = 2
    data = labelled_data(3, labelled_scene(classes.astype(np.int16)))
    return data.divided([roles])


def test_each_training_pixel_is_left_out_once() -> None:
    data = few()
    (scene,) = data.scenes
    times = np.zeros(scene.roles.shape, int)
    parts = list(leave_out(data))
    assert len(parts) == FOLDS
    for part in parts:
        roles = part.scenes[0].roles
        left = roles == Role.VALIDATION
        times += left
        kept = np.where(scene.roles == Role.VALIDATION, Role.NONE, scene.roles)
        np.testing.assert_array_equal(roles[~left], kept[~left])
        assert (part.pixels_by_role()[:, Role.TRAIN] > 0).all()
    alone = scene.classes == 2  # cannot be divided, and trains every time
    np.testing.assert_array_equal(times, (scene.roles == Role.TRAIN) & ~alone)


def test_too_few_pixels_are_not_held_out() -> None:
    assert hold_out(few()) is None
