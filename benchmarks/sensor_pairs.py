"""What does it cost to train on one sensor's product and to map another's?

    python benchmarks/sensor_pairs.py                    10 minutes
    python benchmarks/sensor_pairs.py --method lda --seeds 1

The ground is the same for all: a simulated landscape of ten materials at 30 m, as each
product delivers it. A model is trained on one part of it and maps another. It is
trained on the bands in which all sensors are good, 430 to 1320, 1460 to 1750 and 1990
to 2430 nm: a model of all bands of a product mostly asks for some that others lack, and
is refused. Where the sensors differ, its bands are resampled from those of the scene,
by centre and width.
Each cell is the overall accuracy of the map, and how it differs from that of a model
which was trained on the mapped sensor's own product, in points. A scene whose bands do
not reach as far, or lie farther apart than the model's, is refused.
"""

import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

import click
import code_digest
import common
import rasterio
from msgspec.structs import replace

from hsi_export.exporting import export
from hsi_runtime import classify
from hsi_runtime.errors import BandMismatchError
from hsi_train.recipe import parse
from hsi_train.simulate import write_scene
from hsi_train.simulate.products.generator import product_spec
from hsi_train.simulate.spec import band_widths
from hsi_train.training import train

PRODUCTS = {
    "enmap": "EnMAP",
    "desis": "DESIS",
    "prisma": "PRISMA",
    "emit": "EMIT",
    "neon": "NEON",
    "tanager": "Tanager",
    "aviris3": "AVIRIS-3",
}
# Networks take longer: of the sensors whose bands are about as wide.
METHODS = {"lda": tuple(PRODUCTS), "s2vnet": ("enmap", "prisma", "aviris3")}
COMMON_NM = ((430, 1320), (1460, 1750), (1990, 2430))
SIDE, RESOLUTION_M = 96, 30.0

Row = dict[str, Any]


def deliver(
    folder: Path, product: str, seed: int, part: int, common_only: bool
) -> tuple[Path, Path]:
    """Simulate a part of a landscape as a product; return it and its labels."""
    path, truth = folder / f"{product}-{part}", folder / f"{product}-{part}.tif"
    spec = product_spec(
        product,
        rows=SIDE,
        cols=SIDE,
        seed=seed,
        origin_row=part * SIDE,
        resolution_m=RESOLUTION_M,
    )
    if common_only:
        widths = band_widths(spec)
        kept = [
            band
            for band, centre in enumerate(spec.wavelengths_nm)
            if any(first <= centre <= last for first, last in COMMON_NM)
        ]
        spec = replace(
            spec,
            wavelengths_nm=tuple(spec.wavelengths_nm[band] for band in kept),
            fwhm_nm=tuple(float(widths[band]) for band in kept),
        )
    write_scene(spec, path, truth=truth, product=product)
    return path, truth


def model_of(folder: Path, method: str, scene: Path, labels: Path, seed: int) -> Path:
    """Train on a product, a short training, and export."""
    content: Row = {"method": method, "seed": seed, "rivals": "none"}
    content["data"] = {"scenes": [str(scene)], "labels": [str(labels)]}
    if method != "lda":
        content["fit"] = {"quick": True}
    run = folder / f"{method}-{scene.name}"
    train(parse(content), run, "cpu")
    export(run, run / "model.onnx")
    return run / "model.onnx"


def accuracy(model: Path, scene: Path, truth: Path) -> float | None:
    """Map a scene; None where it does not cover the bands of the model."""
    output = scene.with_name("map.tif")
    try:
        classify(scene, model, output, overwrite=True, resume=False)
    except BandMismatchError:
        return None
    with rasterio.open(output) as classes, rasterio.open(truth) as labels:
        found, known = classes.read(1), labels.read(1)
    counts = (known > 0) & (found != 255)
    return float((found == known)[counts].mean())


def measure(folder: Path, method: str, seed: int) -> list[Row]:
    products = METHODS[method]
    trained = {p: deliver(folder, p, seed, 0, common_only=True) for p in products}
    mapped = {p: deliver(folder, p, seed, 1, common_only=False) for p in products}
    rows: list[Row] = []
    for source in products:
        model = model_of(folder, method, *trained[source], seed)
        for target in products:
            share = accuracy(model, *mapped[target])
            rows.append(
                {
                    "method": method,
                    "seed": seed,
                    "source": source,
                    "target": target,
                    "overall_accuracy": share,
                }
            )
    return rows


def markdown(rows: list[Row]) -> str:
    """Write a table for each method: trained on in rows, mapped in columns."""
    lines: list[str] = []
    for method, products in METHODS.items():
        own = [row for row in rows if row["method"] == method]
        if not own:
            continue
        seeds = len({row["seed"] for row in own})
        lines += [f"`{method}`, {seeds} landscape(s); trained on the product at left:"]
        lines += ["", *common.table_head(["", *(PRODUCTS[p] for p in products)])]
        for source in products:
            cells = [cell(own, source, target) for target in products]
            lines.append(f"| {PRODUCTS[source]} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join([*lines, common.machine_text(), ""])


def cell(rows: list[Row], source: str, target: str) -> str:
    """Write the mean accuracy, and its difference from the target's own model."""

    def mean(trained: str) -> float | None:
        shares = [
            row["overall_accuracy"]
            for row in rows
            if (row["source"], row["target"]) == (trained, target)
        ]
        return None if None in shares else fmean(shares)

    share, own = mean(source), mean(target)
    if share is None or own is None:
        return "refused"
    difference = "" if source == target else f" ({100 * (share - own):+.1f})"
    return f"{100 * share:.1f}{difference}"


@click.command()
@click.option("--method", "methods", multiple=True, default=tuple(METHODS))
@click.option("--seeds", default=2)
@click.option("--save/--no-save", default=True, help="Keep the figures.")
def main(methods: tuple[str, ...], seeds: int, save: bool) -> None:
    rows: list[Row] = []
    for method in methods:
        for seed in range(seeds):
            with tempfile.TemporaryDirectory() as folder:
                rows += measure(Path(folder), method, seed)
            print(f"{method}, landscape {seed}: done", flush=True)
    text = markdown(rows)
    print(text)
    if save:
        code = code_digest.of_training(*methods)
        common.report("sensor_pairs", {"pairs": rows}, code)
        (common.RESULTS / "sensor_pairs.md").write_text(text)


if __name__ == "__main__":
    main()
