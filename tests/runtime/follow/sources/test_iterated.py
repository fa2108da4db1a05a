"""Model.follow gives, in pieces, what Model.predict gives at once."""

import numpy as np
import pytest
from camera import tall_cube

from hsi_runtime.api import Model
from hsi_runtime.errors import OptionError, SceneError
from hsi_runtime.model.model_file import ModelFile

CENTRES = [450.0, 550.0, 650.0, 850.0]


@pytest.fixture(scope="module")
def ready(model: ModelFile) -> Model:
    return Model(model.path, "cpu", threads=2)


@pytest.mark.parametrize("rows", [None, 1, 7, 200])
@pytest.mark.parametrize("height", [1, 2, 5, 90])
def test_all_lines_are_those_of_a_prediction(
    ready: Model, rows: int | None, height: int
) -> None:
    cube = tall_cube(height)
    cube[2, height // 2, 3] = 0
    declared = {"wavelengths_nm": CENTRES, "nodata": 0, "scale": 1e-4}
    whole = ready.predict(cube, **declared)  # type: ignore[arg-type]
    buffer = np.empty((4, 31), np.uint16)

    def lines() -> object:
        for row in range(height):
            buffer[:] = cube[:, row]  # a grabber's one buffer
            yield buffer

    made = list(ready.follow(lines(), rows=rows, **declared))  # type: ignore[arg-type]
    assert [part.row for part in made] == np.cumsum(
        [0, *(part.prediction.classes.shape[0] for part in made[:-1])]
    ).tolist()
    for name in ("classes", "probabilities"):
        parts = [getattr(part.prediction, name) for part in made]
        together = np.concatenate(parts, axis=-2)
        assert together.tobytes() == getattr(whole, name).tobytes()


def test_classes_come_while_lines_do(ready: Model) -> None:
    cube = tall_cube(60)
    taken: list[int] = []

    def lines() -> object:
        for row in range(60):
            taken.append(row)
            yield cube[:, row]

    first = next(ready.follow(lines(), rows=4, scale=1e-4))  # type: ignore[arg-type]
    assert first.prediction.classes.shape == (4, 31)
    assert len(taken) == 4 + 2  # and their context


def test_no_line(ready: Model) -> None:
    with pytest.raises(SceneError, match="no lines to follow"):
        next(ready.follow([]))


def test_lines_of_another_shape(ready: Model) -> None:
    with pytest.raises(SceneError, match=r"expected \(band, col\)"):
        next(ready.follow([np.zeros(4)]))
    lines = [np.ones((4, 9), np.uint16), np.ones((4, 8), np.uint16)]
    with pytest.raises(SceneError, match="Line 1 has shape"):
        list(ready.follow(lines))


def test_rows_out_of_range(ready: Model) -> None:
    with pytest.raises(OptionError):
        next(ready.follow([np.ones((4, 9), np.uint16)], rows=0))
