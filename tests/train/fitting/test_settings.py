from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from hsi_runtime.errors import RecipeError
from hsi_train.data.labelled_scene import LabelledData
from hsi_train.fitting.settings import (
    DENSE_BATCH,
    DENSE_OUTPUTS,
    PATIENCE,
    PLOTS_BATCH,
    choose_settings,
)
from hsi_train.fitting.windows import Windows
from hsi_train.method import Defaults
from hsi_train.recipe import Fit
from hsi_train.splitting import split

MakeData = Callable[..., LabelledData]
HALO = 6


def fields(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.kron(rng.integers(1, 4, (5, 5)), np.ones((5, 5), dtype=int))


def test_few_labels_are_trained_by_patches(make_data: MakeData) -> None:
    data = make_data(np.kron(fields(), np.ones((3, 3), dtype=int)))
    data = split.per_class(data, 5, 0)
    windows = Windows(data.scenes, HALO, np.zeros(5))
    chosen = choose_settings(Fit(), windows, HALO, Defaults())
    assert (chosen.outputs, chosen.batch) == (1, 60)
    assert (chosen.epochs, chosen.patience) == (None, PATIENCE)


def test_dense_labels_are_trained_by_windows(make_data: MakeData) -> None:
    data = make_data(np.kron(fields(), np.ones((3, 3), dtype=int)))
    data = split.fraction(data, 0.8, 0)
    windows = Windows(data.scenes, HALO, np.zeros(5))
    chosen = choose_settings(Fit(), windows, HALO, Defaults())
    assert (chosen.outputs, chosen.batch) == (DENSE_OUTPUTS, DENSE_BATCH)


def test_a_step_shows_many_plots(make_data: MakeData) -> None:
    data = make_data(fields())  # 25 x 25 px
    windows = Windows(split.fraction(data, 0.8, 0).scenes, HALO, np.zeros(5))
    chosen = choose_settings(Fit(), windows, HALO, Defaults())
    assert (chosen.outputs, chosen.batch) == (DENSE_OUTPUTS, PLOTS_BATCH)
    fitted = choose_settings(Fit(), windows, HALO, Defaults(trains=False))
    assert fitted.epochs == 0


def test_a_length_that_is_given_is_kept_to_the_end(make_data: MakeData) -> None:
    windows = Windows(
        split.per_class(make_data(fields()), 5, 0).scenes, HALO, np.zeros(5)
    )
    chosen = choose_settings(Fit(epochs=7), windows, HALO, Defaults(trains=False))
    assert (chosen.epochs, chosen.patience) == (7, 0)


def test_what_the_recipe_says_stays(make_data: MakeData) -> None:
    data = make_data(fields())
    windows = Windows(split.per_class(data, 5, 0).scenes, HALO, np.zeros(5))
    asked = Fit(
        epochs=3, outputs=9, batch=7, learning_rate=0.1, weight_decay=0.2, gain=0.3,
        noise=0.4, masked=0.3, patience=5, linear_path=False,
    )  # fmt: skip
    chosen = choose_settings(asked, windows, HALO, Defaults())
    assert msgspec.structs.asdict(chosen) == msgspec.structs.asdict(asked)


def test_what_the_recipe_leaves_open_comes_from_the_method(
    make_data: MakeData,
) -> None:
    data = make_data(fields())
    windows = Windows(split.per_class(data, 5, 0).scenes, HALO, np.zeros(5))
    own = Defaults(
        learning_rate=0.5, weight_decay=0.25, gain=0.125, noise=0.0625, batch=5,
    )  # fmt: skip
    chosen = choose_settings(Fit(noise=0), windows, HALO, own)
    assert chosen.learning_rate == 0.5
    assert (chosen.weight_decay, chosen.gain, chosen.noise) == (0.25, 0.125, 0)
    assert chosen.batch == 5


@pytest.mark.parametrize("batch", [1, 2])
def test_steps_too_small_for_batch_statistics(make_data: MakeData, batch: int) -> None:
    windows = Windows(
        split.per_class(make_data(fields()), 5, 0).scenes, HALO, np.zeros(5)
    )
    with pytest.raises(RecipeError, match=rf"fit\.batch is {batch}.*at least 3"):
        choose_settings(Fit(batch=batch, outputs=1), windows, HALO, Defaults())
