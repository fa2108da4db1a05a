"""Writes ``report.html``: one self-contained page to judge a run by."""

from pathlib import Path
from typing import Any

from hsi_runtime import files
from hsi_train.data.labelled_scene import LabelledData
from hsi_train.fitting.progress import Progress, describe, describe_balance
from hsi_train.report.html import (
    Safe,
    anchor,
    figure,
    grid,
    joined,
    page,
    paragraph,
    percent,
    preformatted,
    section,
    svg,
    table,
    text,
)
from hsi_train.report.maps import maps, target_maps
from hsi_train.report.plots import (
    draw_confusion,
    draw_loss,
    draw_reliability,
    draw_validation,
    plot_style,
)
from hsi_train.report.run_result import RunResult
from hsi_train.report.spectra import spectra_section
from hsi_train.report.tables import (
    area_table,
    calibration_table,
    cards,
    class_table,
    comparison,
    confusion_table,
    interval,
    provenance_table,
    rivals_table,
    sets_table,
)
from hsi_train.report.unmixing import unmixing
from hsi_train.run_folder.checkpoint import Description

FITTING_CLASSES = 12  # whose confusion matrix leaves room beside it


@plot_style()
def write_report(
    path: Path,
    run: RunResult,
) -> None:
    """Write the page: maps, accuracy, curves, spectra, recipe and provenance."""
    method, device, data = run.method, run.device, run.data
    result, described = run.metrics, run.description
    values = described.values
    counts = data.pixels_by_role()
    contents = {
        "Maps": Safe() if data.spectra else maps(method, data, device),
        "Simple rivals": rivals_table(result),
        "Accuracy of each class": class_table(result, data.classes, counts, data.units),
        "Confusion matrix": _confusion(result, data),
        "Area-adjusted accuracy": _area_adjusted(result, data),
        "Source and target": _target(run),
        "Calibration": _calibration(result),
        "Sets of classes": sets_table(result),
        "Training": _training(run.progress, result["training"]),
        "Mean spectra": spectra_section(
            data, method.problem.fill, values.quantity, values.scale
        ),
        "Endmembers and abundances": unmixing(method, data, device),
        "Provenance": provenance_table(result, described),
        "Recipe": preformatted(described.provenance.recipe),
    }
    present = {title: inside for title, inside in contents.items() if inside}
    links = "\n".join(
        f'<a href="#{anchor(title)}">{text(title)}</a>' for title in present
    )
    content = page(
        described.method,
        _head(data, result, described),
        cards(result, data.units),
        *(paragraph(sentence, "warning") for sentence in result["warnings"]),
        Safe(f"<nav>{links}</nav>"),
        *(section(title, inside) for title, inside in present.items()),
    )
    files.write_text(path, content)


def _head(data: LabelledData, result: dict[str, Any], described: Description) -> Safe:
    scene = data.reference.path.name
    more = f" and {len(data.scenes) - 1} more" if len(data.scenes) > 1 else ""
    headline = f"{described.method}: trained on all {data.units}, tested on none"
    if result["overall_accuracy"] is not None:
        headline = (
            f"{described.method}: {percent(result['overall_accuracy'])} of the test "
            f"{data.units} are right"
        )
    summary = (
        f"Trained on {scene}{more}: {len(data.classes)} classes, {len(data.bands)} "
        f"bands, {result['counts']['train']:,} training {data.units}."
    )
    return joined(Safe(f"<h1>{text(headline)}</h1>"), paragraph(summary, "soft"))


def _confusion(result: dict[str, Any], data: LabelledData) -> Safe:
    if result["overall_accuracy"] is None:
        return Safe()
    drawn = draw_confusion(result["confusion"], [c.name for c in data.classes])
    one = "spectrum" if data.spectra else "pixel"
    picture = figure(
        svg(drawn),
        f"Confusion matrix of {len(data.classes)} classes; confusion.csv holds it as "
        "numbers",
        f"Test {data.units}. Colour: share of the true class, on a square-root scale; "
        f"a grey row has no test {one}.",
        width_px=96 * drawn.get_size_inches()[0],
    )
    worst = confusion_table(result, data.classes)
    listed = (
        joined(Safe("<h3>Most frequent confusions</h3>"), worst)
        if worst
        else paragraph("No test pixel is wrong.")
    )
    if len(data.classes) > FITTING_CLASSES:
        return joined(picture, listed)
    return Safe(f'<div class="pair">{picture}<div>{listed}</div></div>')


def _area_adjusted(result: dict[str, Any], data: LabelledData) -> Safe:
    adjusted = result.get("area_adjusted")
    if not adjusted:
        return Safe()
    return joined(
        paragraph(
            "Accuracy and area of the whole map, estimated from the test pixels as a "
            "probability sample (Olofsson et al. 2014); in brackets 95 % intervals."
        ),
        paragraph(joined("Overall accuracy:", interval(adjusted["overall_accuracy"]))),
        area_table(adjusted, data.classes),
    )


def _target(run: RunResult) -> Safe:
    if run.target_data is None:
        return Safe()
    warnings = run.metrics["target"]["warnings"]
    return joined(
        *(paragraph(sentence, "warning") for sentence in warnings),
        table(*comparison(run.metrics)),
        target_maps(run.method, run.target_data, run.data, run.device),
    )


def _calibration(result: dict[str, Any]) -> Safe:
    calibration = result.get("calibration")
    if not calibration:
        return Safe()
    picture = figure(
        svg(draw_reliability(calibration)),
        "Reliability diagram: accuracy of the test pixels over their confidence, and "
        "how many pixels have which confidence, before and after calibration",
        "Test pixels. On the dotted line confidence is what it says; below it the "
        "network is too sure of itself, above it not sure enough.",
    )
    return Safe(f'<div class="pair">{picture}{calibration_table(calibration)}</div>')


def _training(progress: Progress, training: dict[str, Any]) -> Safe:
    if "members" in training:
        curves = paragraph("The reports of the members show their curves.")
    else:
        curves = _curves(progress)
    return joined(paragraph(_length(training)), curves)


def _length(training: dict[str, Any]) -> str:
    told = f"{describe(training)} {describe_balance(training)}".strip()
    if "budget" in training:
        told += (
            " The length of a training with a budget depends on the machine, so that "
            "another run gives another model."
        )
    return told


def _curves(progress: Progress) -> Safe:
    if not progress.history:
        return paragraph(
            "No epoch was trained: the scores were fitted to the training pixels."
        )
    plots = [figure(svg(draw_loss(progress)), "Training loss over the epochs")]
    validation = draw_validation(progress)
    if validation is None:
        note = paragraph("There are no validation pixels: the last epoch is kept.")
        return joined(grid(plots, 1, 2), note)
    plots.append(
        figure(svg(validation), "Accuracy and kappa of the validation pixels by epoch")
    )
    return grid(plots, 1, 2)
