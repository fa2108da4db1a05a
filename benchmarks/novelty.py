"""Does the novelty layer find materials that training did not know?

    HSI_DATA=... HSI_BENCHMARKS=... python benchmarks/novelty.py      10 minutes

One class after the other is left out of the training pixels. Its pixels are unknown
then, and the test pixels of the other classes are known. The table has the area under
the receiver operating characteristic (AUROC): the share of pairs of an unknown and a
known pixel of which the unknown one is the more novel. Nothing is trained: novelty is
of spectra, whatever the network. What is measured is kept, so a benchmark that was
stopped goes on where it was.
"""

import tempfile
from pathlib import Path
from typing import Any

import click
import code_digest
import common
import numpy as np
from accuracy_data import DATA_SETS, RECEPTIVE_FIELD, divisions
from sklearn.metrics import roc_auc_score

from hsi_runtime.matching.novelty import UNLIKE, Novelty
from hsi_train import recipe
from hsi_train.data.labelled_scene import LabelledData, on_ground, places_of
from hsi_train.data.roles import Role
from hsi_train.fitting.statistics import describe_problem
from hsi_train.inputs import divide, read_data
from hsi_train.linear import choice
from hsi_train.linear.spectra import averaged, thinned, training_pixels
from hsi_train.run_folder import novelty

HALO = (RECEPTIVE_FIELD - 1) // 2
SHOWN = 2000  # pixels of each kind, at most
KEYS = ("data", "class", "seed")
Row = dict[str, Any]


def measure(data: LabelledData, left_out: int, side: int) -> Row | None:
    """Leave a class out, and measure how well its pixels are told from the others."""
    fill = describe_problem(data).fill
    trained, classes = places_of(data.scenes, Role.TRAIN)
    tested, truth = places_of(data.scenes, Role.TEST)
    others = classes != left_out
    seen = averaged(data.scenes, trained, fill, side)
    known = novelty.known_classes(
        seen[others], classes[others], on_ground(data.scenes, trained[others]), side
    )
    if known is None:
        return None

    def of(places: Any) -> Any:
        spectra = averaged(data.scenes, places, fill, side)
        return Novelty.of(known).of_spectra(spectra)

    familiar = tested[truth != left_out]
    familiar = familiar[thinned(truth[truth != left_out], SHOWN, 0)]
    unknown = np.concatenate([trained[~others], tested[truth == left_out]])
    unknown = unknown[:: max(1, len(unknown) // SHOWN)]
    of_known, of_unknown = of(familiar), of(unknown)
    kinds = np.repeat([0, 1], [len(familiar), len(unknown)])
    return {
        "auroc": float(roc_auc_score(kinds, np.concatenate([of_known, of_unknown]))),
        "known": len(familiar),
        "unknown": len(unknown),
        "known_unlike": float((of_known >= UNLIKE).mean()),
        "unknown_unlike": float((of_unknown >= UNLIKE).mean()),
        "side": side,
    }


def side_without(data: LabelledData, left_out: int) -> int:
    """Return the side of the square that the linear path chooses without a class."""
    problem = describe_problem(data)
    pixels = training_pixels(data.scenes, problem.fill, len(data.classes))
    kept = pixels.classes != left_out
    classes = np.unique(pixels.classes[kept], return_inverse=True)[1]
    fewer = pixels._replace(
        spectra={view: seen[kept] for view, seen in pixels.spectra.items()},
        classes=classes,
        places=pixels.places[kept],
        counts=np.delete(pixels.counts, left_out),
    )
    return choice.choose(fewer).best.view.side


def table(rows: list[Row]) -> str:
    """Average over the classes of each data set; name the class that is hidden best."""
    lines = common.table_head(
        ["data", "classes", "AUROC", "least, class", "known unlike", "unknown unlike"]
    )
    for name in dict.fromkeys(row["data"] for row in rows):
        own = [row for row in rows if row["data"] == name]
        means = {
            key: np.mean([row[key] for row in own])
            for key in ("auroc", "known_unlike", "unknown_unlike")
        }
        worst = min(own, key=lambda row: float(row["auroc"]))
        lines.append(
            f"| {name} | {len(own)} | {means['auroc']:.3f} | {worst['auroc']:.2f}, "
            f"{worst['class']} | {means['known_unlike']:.1%} | "
            f"{means['unknown_unlike']:.1%} |"
        )
    return "\n".join([*lines, ""])


@click.command()
@click.option("--data", "names", multiple=True, default=list(DATA_SETS))
@click.option("--seed", default=0)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path),
    default=common.RESULTS / "novelty.jsonl",
)  # fmt: skip
def main(names: tuple[str, ...], seed: int, output: Path) -> None:
    code = code_digest.of("hsi_train.run_folder.novelty")
    for name in names:
        if not DATA_SETS[name].present:
            continue
        with tempfile.TemporaryDirectory() as folder:
            data = divided(name, seed, Path(folder))
            for index, entry in enumerate(data.classes):
                key = {"data": name, "class": entry.name, "seed": seed, "code": code}
                if any(key.items() <= row.items() for row in common.read_lines(output)):
                    continue
                row = measure(data, index, side_without(data, index))
                if row is not None:
                    common.add_line(output, key | row, KEYS)
    rows = [row for row in common.read_lines(output) if row["code"] == code]
    output.with_suffix(".md").write_text(table(rows), encoding="utf-8")
    print(table(rows))


def divided(name: str, seed: int, folder: Path) -> LabelledData:
    """Read a data set, divided as `accuracy.py` divides it."""
    division = divisions(name, range(seed, seed + 1), folder)[seed]
    settings = recipe.parse(
        {"method": "lda", "data": division.data, "split": division.split}
    )
    return divide(settings, read_data(settings, HALO), RECEPTIVE_FIELD)


if __name__ == "__main__":
    main()
