"""The tables of the report: accuracy, confusions, areas, calibration, provenance."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.model.model_file import ClassEntry
from hsi_train.data.roles import Role
from hsi_train.report.html import (
    Safe,
    bar,
    joined,
    named,
    paragraph,
    percent,
    table,
    text,
)
from hsi_train.run_folder.checkpoint import Description

MAX_CONFUSIONS = 10
# Smallest area in m², the unit in m², decimals, name of the unit.
UNITS = ((1e8, 1e6, 1, "km²"), (1e6, 1e4, 1, "ha"), (0.0, 1.0, 0, "m²"))


def cards(result: dict[str, Any], units: str = "pixels") -> Safe:
    """Return the figures by which to judge the run; none where nothing was tested.

    Args:
        result: The content of ``metrics.json``.
        units: What was tested, such as pixels.
    """
    if result["overall_accuracy"] is None:
        return Safe()
    tested = sum(c["support"] for c in result["per_class"])
    entries = [
        (
            "Overall accuracy",
            percent(result["overall_accuracy"]),
            f"of the test {units}",
        ),
        ("Average accuracy", percent(result["average_accuracy"]), "mean recall"),
        ("Kappa", f"{result['kappa']:.3f}", "beyond chance"),
        (f"Test {units}", f"{tested:,}", _seen(result)),
    ]
    recalls = [c for c in result["per_class"] if c["recall"] is not None]
    worst = min(recalls, key=lambda c: c["recall"])
    of = Safe(f"of <bdi>{text(worst['name'])}</bdi>")
    entries.insert(2, ("Lowest recall", percent(worst["recall"]), of))
    if rivals := result.get("rivals"):
        best = max(rivals, key=lambda rival: rival["overall_accuracy"])
        note = f"average {percent(best['average_accuracy'])}; {best['name']}"
        entries.append(("Best simple rival", percent(best["overall_accuracy"]), note))
    calibration = result.get("calibration")
    if calibration:
        before = percent(calibration["expected_calibration_error_uncalibrated"])
        after = percent(calibration["expected_calibration_error"])
        entries.append(("Calibration error", after, f"{before} before calibration"))
    inside = "".join(
        f"<div><dt>{text(name)}</dt><dd>{text(value)}<small>{text(note)}</small>"
        "</dd></div>"
        for name, value, note in entries
    )
    return Safe(f'<dl class="cards">{inside}</dl>')


def _seen(result: dict[str, Any]) -> str:
    return f"{result['test_pixels_in_training_windows']:,} inside training windows"


def class_table(
    result: dict[str, Any],
    classes: Sequence[ClassEntry],
    counts: NDArray[np.int64],
    units: str = "pixels",
) -> Safe:
    """Tabulate precision, recall and F1.

    Args:
        result: The content of ``metrics.json``.
        classes: By class index.
        counts: Pixels, shape ``(class, role)``.
        units: What was tested, such as pixels.
    """
    head = [
        "class",
        "precision",
        "recall",
        "F1",
        f"test {units}",
        "training",
        "validation",
    ]
    rows = [
        [
            named(info),
            *(bar(c[key]) for key in ("precision", "recall", "f1")),
            *(f"{pixels[role]:,}" for role in (Role.TEST, Role.TRAIN, Role.VALIDATION)),
            str(info.code),
        ]
        for info, c, pixels in zip(classes, result["per_class"], counts, strict=True)
    ]
    head.append("code")
    return table(head, rows)


def confusion_table(result: dict[str, Any], classes: Sequence[ClassEntry]) -> Safe:
    """List the most frequent confusions; empty if there are none."""
    matrix = np.array(result["confusion"])
    support = matrix.sum(axis=1)
    wrong = matrix * ~np.eye(len(matrix), dtype=bool)
    order = np.argsort(-wrong, axis=None, kind="stable")[:MAX_CONFUSIONS]
    pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
    rows = [
        [
            named(classes[true]),
            named(classes[predicted]),
            f"{wrong[true, predicted]:,}",
            percent(wrong[true, predicted] / support[true]),
        ]
        for true, predicted in pairs
        if wrong[true, predicted]
    ]
    if not rows:
        return Safe()
    return table(["true", "taken for", "pixels", "of the true"], rows, "pairs")


def area_table(adjusted: dict[str, Any], classes: Sequence[ClassEntry]) -> Safe:
    """Tabulate estimates with their 95 % intervals."""
    by_code = {c.code: c for c in classes}
    areas = [c["area_m2"] for c in adjusted["classes"] if c["area_m2"]]
    largest = max((a[0] for a in areas), default=0.0)
    _, size, decimals, unit = next(u for u in UNITS if largest >= u[0])
    head = ["class", "share of the map area", "user's accuracy", "producer's accuracy"]
    rows = []
    for c in adjusted["classes"]:
        shares = ("area_share", "users_accuracy", "producers_accuracy")
        rows.append([named(by_code[c["code"]]), *(interval(c[key]) for key in shares)])
    if areas:
        head.insert(2, f"area [{unit}]")
        cells = [c["area_m2"] for c in adjusted["classes"]]
        for row, cell in zip(rows, cells, strict=True):
            row.insert(2, _area(cell, size, decimals))
    return table(head, rows)


def interval(triple: Sequence[float] | None) -> Safe:
    """Format a share in [0, 1] with its interval as percentages; None is a dash."""
    if triple is None:
        return Safe("-")
    share, low, high = (100 * v for v in triple)
    return Safe(f"{share:.1f} % <small>[{low:.1f}, {high:.1f}]</small>")


def _area(triple: Sequence[float] | None, size: float, decimals: int) -> Safe:
    if triple is None:
        return Safe("-")
    area, low, high = (f"{v / size:,.{decimals}f}" for v in triple)
    return Safe(f"{area} <small>[{low}, {high}]</small>")


def calibration_table(calibration: dict[str, Any]) -> Safe:
    """Tabulate the temperature, its effect, and the suggested threshold."""
    before = percent(calibration["expected_calibration_error_uncalibrated"])
    after = percent(calibration["expected_calibration_error"])
    temperature = f"{calibration['temperature']:.3f}"
    if calibration["note"]:
        temperature += f", {calibration['note']}"
    rows = [
        ["Temperature", temperature],
        ["Fitted on", f"{calibration['pixels']:,} validation pixels"],
        ["Expected calibration error before", before],
        ["Expected calibration error after", after],
    ]
    if calibration["reject"] is not None:
        rows += [
            ["Suggested --reject", f"{calibration['reject']:.3f}"],
            [
                "Accuracy of what it keeps, of validation",
                percent(calibration["reject_accuracy"]),
            ],
            [
                "Share of pixels that it keeps, of validation",
                percent(calibration["reject_coverage"]),
            ],
        ]
    return table([], rows, "facts")


def sets_table(result: dict[str, Any]) -> Safe:
    """Tabulate the sets of classes that a model offers, on the test pixels."""
    rows = [
        [
            f"{one['level']:g}",
            percent(one["coverage"]),
            f"{one['mean_size']:.2f}",
            f"{one['threshold']:.3f}",
        ]
        for one in result.get("sets", [])
    ]
    if not rows:
        return Safe()
    return joined(
        paragraph(
            "hsi-run --sets P writes the classes that cannot be excluded. Thresholds "
            "are of validation pixels, counted by blocks; coverage and size are of the "
            "test pixels."
        ),
        table(["P", "hold the right class", "classes in a set", "threshold"], rows),
    )


def provenance_table(result: dict[str, Any], described: Description) -> Safe:
    """Tabulate the method, the training data and the origin of the run."""
    bands, values = described.bands, described.values
    used = f"{len(bands.used)} of {bands.source_count}"
    if bands.wavelengths_nm is not None:
        nm = bands.wavelengths_nm
        used += f", {min(nm):.0f} to {max(nm):.0f} nm"
    counts = result["counts"]
    pixels = f"{counts['train']:,} / {counts['validation']:,} / {counts['test']:,}"
    rows = [
        ["Method", described.method],
        ["Version of hsi-edge", described.provenance.version],
        ["Seed", str(result["seed"])],
        ["Pixels: training / validation / test", pixels],
        ["Bands", used],
        ["Values", f"{values.quantity}, stored as {values.dtype}"],
        ["Receptive field", f"{result['receptive_field']} px"],
        ["Parameters", f"{result['parameters']:,}"],
        ["Epoch that was kept", str(result["best_epoch"])],
        ["Time", f"{result['seconds']:.0f} s"],
    ]
    if "pretraining" in result:
        origin = result["pretraining"]
        encoder = (
            f"{origin['method']}, {origin['steps']:,} steps, seed {origin['seed']}, "
            f"on {', '.join(origin['scenes'])}"
        )
        rows.append(["Encoder", encoder])
    rows += [
        [f"SHA-256 of {name}", Safe(f"<code>{text(digest)}</code>")]
        for name, digest in described.provenance.data_sha256.items()
    ]
    return table([], rows, "facts")


def comparison(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Compare the source's test pixels with the target: head and rows of a table."""
    target = result["target"]
    rows = [
        [name, *(percent(side[key]) for side in (result, target))]
        for name, key in (
            ("Overall accuracy", "overall_accuracy"),
            ("Average accuracy", "average_accuracy"),
        )
    ]
    rows.append(["Kappa", f"{result['kappa']:.3f}", f"{target['kappa']:.3f}"])
    pairs = zip(result["per_class"], target["per_class"], strict=True)
    for ours, theirs in pairs:
        shares = (percent(ours["recall"]), percent(theirs["recall"]))
        rows.append([f"Recall of {ours['name']}", *shares])
    tested = sum(c["support"] for c in result["per_class"])
    rows.append(["Pixels", f"{tested:,}", f"{target['counts']['compared']:,}"])
    rows.append(
        ["Share of the largest class", "", percent(target["largest_class_share"])]
    )
    return ["", "source (test pixels)", "target"], rows


def rivals_table(result: dict[str, Any]) -> Safe:
    """Compare the network with simple classifiers on the same test pixels."""
    rows = []
    for rival in result.get("rivals", []):
        limits = rival["interval"]
        spread = (
            "fewer than five blocks"
            if limits is None
            else f"{100 * limits[0]:+.1f} to {100 * limits[1]:+.1f}"
        )
        rows.append(
            [
                f"{rival['name']}: {rival['variant']}",
                percent(rival["overall_accuracy"]),
                percent(rival["average_accuracy"]),
                f"{100 * rival['difference']:+.1f}",
                spread,
            ]
        )
    if not rows:
        return Safe()
    head = ["rival", "overall", "average", "the network, points", "95 % interval"]
    return joined(
        paragraph(
            "Simple classifiers that see window means. What each sees, and its "
            "settings, are chosen on pixels that do not train: no test pixel has a "
            "say. The interval is over blocks of test pixels."
        ),
        table(head, rows),
    )
