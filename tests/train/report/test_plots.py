import io
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure

from hsi_train.fitting.progress import Epoch, Progress
from hsi_train.report import plots

MATRIX = [[90, 10, 0], [0, 0, 0], [1, 2, 3]]
NAMES = ["roofs & <b>walls</b>", "5 $ a_b $ {", "水 und Bäume"]
CALIBRATION: dict[str, Any] = {
    "temperature": 1.8,
    "pixels": 500,
    "expected_calibration_error": 0.021,
    "expected_calibration_error_uncalibrated": 0.094,
    "bins": [
        {"confidence": 0.55, "accuracy": 0.5, "count": 10},
        {"confidence": 0.95, "accuracy": 0.97, "count": 30},
    ],
    "uncalibrated_bins": [{"confidence": 0.99, "accuracy": 0.9, "count": 40}],
    "reject": None,
}


def words(drawn: Figure) -> list[str | None]:
    """Read the text of a plot as a browser shows it."""
    buffer = io.BytesIO()
    with plots.plot_style():
        drawn.savefig(buffer, format="svg")
    root = ElementTree.fromstring(buffer.getvalue())
    return [e.text for e in root.iter("{http://www.w3.org/2000/svg}text")]


def numbers(line: Any, axis: str) -> list[float]:
    return [float(v) for v in getattr(line, f"get_{axis}data")()]


def confusion(matrix: Any, names: list[str]) -> Figure:
    with plots.plot_style():
        return plots.draw_confusion(matrix, names)


def test_confusion_shows_counts_and_names() -> None:
    shown = words(confusion(MATRIX, NAMES))
    for name in NAMES:
        assert shown.count(name) == 2  # both axes
    assert {"90", "10", "1", "2", "3"} <= set(shown)
    assert "0" not in shown
    assert "100 %" in shown


def test_confusion_is_coloured_by_share_of_the_true_class() -> None:
    (image,) = confusion(MATRIX, NAMES).axes[0].get_images()
    shares = image.get_array()
    assert shares is not None
    np.testing.assert_allclose(shares[0], [0.9, 0.1, 0])
    assert np.ma.getmaskarray(np.ma.masked_invalid(shares))[1].all()  # no test pixel
    np.testing.assert_allclose(shares[2], [1 / 6, 1 / 3, 1 / 2])


def test_labels_lie_within_the_picture() -> None:
    names = ["Winter Wheat maturing WWWWWWWW", "w" * 80, "b"]
    drawn = confusion(MATRIX, names)
    with plots.plot_style():
        drawn.canvas.draw()
        rows, cols = drawn.axes[0].get_yticklabels(), drawn.axes[0].get_xticklabels()
        assert min(label.get_window_extent().x0 for label in rows) > 0
        assert min(label.get_window_extent().y0 for label in cols) > 0
    assert max(len(label.get_text()) for label in rows) == plots.NAME_LENGTH


@pytest.mark.parametrize("count", [2, 6, 16, 64])
def test_many_classes_stay_legible(count: int) -> None:
    matrix = np.full((count, count), 7)
    drawn = confusion(matrix, [f"class {n}" for n in range(count)])
    axis = drawn.axes[0]
    assert max(drawn.get_size_inches()) < 12
    assert len(axis.get_yticks()) == count
    spacing = axis.get_window_extent().height / drawn.dpi * 72 / count
    size = float(axis.get_yticklabels()[0].get_fontsize())
    assert 6 <= size <= spacing  # points


def test_counts_that_have_no_room_are_left_out() -> None:
    long = np.full((40, 40), 1_000_000)
    assert "1000000" not in words(confusion(long, [str(n) for n in range(40)]))
    assert "7" in words(confusion(np.full((16, 16), 7), ["a"] * 16))


def history(validation: bool, losses: tuple[float, ...] = (2.0, 1.0, 0.5)) -> Progress:
    epochs = [
        Epoch(n, loss, 0.1, 0.1 * n if validation else None,
              0.2 * n if validation else None, 0.1)
        for n, loss in enumerate(losses, start=1)
    ]  # fmt: skip
    return Progress(epochs, best_epoch=2)


def test_the_loss_is_plotted_by_epoch() -> None:
    (axis,) = plots.draw_loss(history(False)).axes
    kept, loss = axis.lines
    assert numbers(loss, "x") == [1, 2, 3]
    assert numbers(loss, "y") == [2.0, 1.0, 0.5]
    assert numbers(kept, "x") == [2, 2]
    assert axis.get_yscale() == "linear"


@pytest.mark.parametrize(
    ("losses", "scale"),
    [((9.0, 0.1), "log"), ((9.0, -0.1), "linear"), ((3.0,), "linear")],
)
def test_scale_of_the_loss(losses: tuple[float, ...], scale: str) -> None:
    drawn = plots.draw_loss(history(False, losses))
    assert drawn.axes[0].get_yscale() == scale
    assert not [word for word in words(drawn) if word is None or "$" in word]


def test_validation_is_plotted_where_there_is_any() -> None:
    assert plots.draw_validation(history(False)) is None
    drawn = plots.draw_validation(history(True))
    assert drawn is not None
    lines = {line.get_label(): numbers(line, "y") for line in drawn.axes[0].lines}
    assert lines["overall accuracy"] == pytest.approx([0.2, 0.4, 0.6])
    assert lines["kappa"] == pytest.approx([0.1, 0.2, 0.3])


def test_reliability_before_and_after() -> None:
    drawn = plots.draw_reliability(CALIBRATION)
    upper, lower = drawn.axes
    assert {"before: error 9.4 %", "after: error 2.1 %"} <= set(words(drawn))
    _, before, after = upper.lines
    assert numbers(before, "x") == [0.99]
    assert numbers(before, "y") == [0.9]
    assert numbers(after, "x") == [0.55, 0.95]
    assert numbers(after, "y") == [0.5, 0.97]
    assert numbers(lower.lines[1], "y") == [0.25, 0.75]


def test_a_suggested_threshold_is_marked() -> None:
    drawn = plots.draw_reliability(CALIBRATION | {"reject": 0.625})
    assert "suggested --reject 0.625" in words(drawn)
    assert numbers(drawn.axes[0].lines[-1], "x") == [0.625, 0.625]


def test_control_characters_do_not_break_a_plot() -> None:
    assert "a\ufffdb" in words(confusion(MATRIX, ["a\x07b", "c", "d"]))
