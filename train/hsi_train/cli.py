"""hsi-train: labelled scenes in, a run folder with a checkpoint and a report out.

hsi-train mf2cnet --scene scene.tif --labels labels.tif -o runs/pines
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hsi_runtime import command_line
from hsi_runtime.errors import RecipeError
from hsi_train import methods
from hsi_train.processes.launch import rank

if TYPE_CHECKING:
    from hsi_train.fitting.progress import Epoch, Watch


def _budget(
    context: click.Context, option: click.Parameter, value: str | None
) -> str | None:
    """Check a length of time, as a recipe does."""
    if value is not None:
        from hsi_train.recipe import seconds_of

        try:
            seconds_of(value)
        except ValueError as error:
            raise click.BadParameter(f"{error}.") from error
    return value


@click.command(name="hsi-train")
@click.argument("what", metavar="METHOD|RECIPE.toml", required=False)
@click.option("--scene", multiple=True, help="Scene, or folder of scenes; repeatable.")
@click.option("--labels", multiple=True, help="Raster per scene, or one vector file.")
@click.option(
    "--spectra",
    multiple=True,
    help="In place of scenes: ENVI library (.sli), CSV or points; repeatable.",
)
@click.option("--label-field", help="Field of vector file or spectra with the class.")
@click.option("--group-field", help="Field of spectra that names what was measured.")
@click.option(
    "--scale",
    type=click.FloatRange(0, 1e6, min_open=True),
    help="Reflectance = value * scale, of spectra whose file does not state it.",
)
@click.option("--bands-of", help="Scene to whose bands spectra are resampled.")
@click.option("--classes", help="JSON file with class names and colours.")
@click.option("--dark", help="Lines without light, of scenes that are raw counts.")
@click.option("--white", help="Lines of a white panel, of the same camera.")
@click.option("--gain", help="A line to multiply counts by, for each column and band.")
@click.option("--offset", help="With --gain: a line to add then.")
@click.option("--target-scene", multiple=True, help="Measured, not trained on.")
@click.option("--target-labels", multiple=True, help="As --labels, of the target.")
@click.option(
    "--split",
    multiple=True,
    help="'disjoint' (default), or raster: 1 train, 2 validation, 3 test.",
)
@click.option(
    "--probability-sample",
    is_flag=True,
    help="The split's test pixels were drawn at random from the scene: estimate areas.",
)
@click.option(
    "--samples-per-class", type=click.IntRange(min=1), help="Random training pixels."
)
@click.option(
    "--train-fraction",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Random share of each class for training.",
)
@click.option(
    "--pretrain-scene",
    multiple=True,
    help="Scene or folder to pre-train on, without labels; repeatable.",
)
@click.option("--init", help="Pre-trained encoder.safetensors of another run.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Run folder.")
@click.option("--set", "settings", multiple=True, metavar="SECTION.KEY=VALUE")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="[default: 0]")
@click.option(
    "--seeds",
    type=click.IntRange(min=2),
    metavar="N",
    help="Train with N seeds, from --seed upwards; mean and spread in seeds.json.",
)
@click.option(
    "--folds",
    type=click.IntRange(2, 100),
    metavar="K",
    help="Cross-validate over K parts of the ground; then train on all labels.",
)
@click.option(
    "--members",
    type=click.IntRange(2, 100),
    metavar="K",
    help="Train K networks on one split; the model averages their probabilities.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    metavar="K",
    help="Train K of the runs of --seeds, --folds or --members at once.",
)
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    help="[default: until nothing more is learned]",
)
@click.option("--quick", is_flag=True, help="A short training, for a first look.")
@click.option(
    "--budget",
    callback=_budget,
    metavar="TIME",
    help="The best training that ends within a time: 30s, 10m, 1h.",
)
@click.option(
    "--rivals",
    type=click.Choice(["cheap", "all", "none"]),
    help="Simple classifiers to compare with on the same pixels: linear ones in "
    "seconds, or all in minutes.  [default: cheap]",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
)
@click.option("--resume", is_flag=True, help="Go on with an interrupted run.")
@click.option("--overwrite", is_flag=True, help="Replace a run that is there.")
@click.option("--list", "list_all", is_flag=True, help="List methods and recipes.")
@command_line.common_options
def command(
    what: str | None,
    output: Path | None,
    seeds: int | None,
    workers: int,
    device: str,
    resume: bool,
    overwrite: bool,
    list_all: bool,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Train a method on labelled scenes.

    METHOD is a published classifier (--list shows them); a RECIPE.toml holds the same
    settings in a file. Writes checkpoint, metrics, split, history and report into the
    run folder.
    """
    if list_all:
        _list(as_json)
        return
    if resume and overwrite:
        raise click.UsageError("--resume and --overwrite exclude each other.")
    if sum(v is not None for v in (seeds, options["folds"], options["members"])) > 1:
        raise click.UsageError("--seeds, --folds and --members exclude each other.")
    if what is None:
        raise click.UsageError("Missing METHOD or RECIPE.toml; --list shows them.")
    quiet = quiet or rank() > 0  # of the processes of torchrun, the first speaks
    command_line.start_messages(quiet)
    from hsi_train import recipe

    settings = recipe.parse(_recipe_content(what, options))
    run = output or Path("runs") / Path(what).stem
    if output is None and not quiet:
        click.echo(f"Run folder: {run}", err=True)
    result = _train(settings, run, seeds, workers, device, resume, overwrite, quiet)
    if rank() > 0:
        return
    if as_json:
        command_line.print_json(result)
        return
    if not quiet:
        click.echo(_table(result, seeds), err=True)
    command_line.echo(str(run))


def _table(result: dict[str, Any], seeds: int | None) -> str:
    """Sum up one run, or several."""
    from hsi_train.several import dispatch
    from hsi_train.several import seeds as seed_runs

    if seeds is not None:
        return seed_runs.table(result)
    return dispatch.table(result) or _summary(result)


def _summary(result: dict[str, Any]) -> str:
    """Sum up ``metrics.json`` in a few lines."""
    figures = (
        "overall accuracy {overall_accuracy:.2%}, average accuracy "
        "{average_accuracy:.2%}, kappa {kappa:.3f}"
    )
    from hsi_train.fitting.progress import describe, describe_balance

    units = result.get("units", "pixels")
    tested = f"Test {units}: {figures}; {{seconds:.0f}} s"
    if result["overall_accuracy"] is None:
        tested = f"All {units} train, and none tests; {{seconds:.0f}} s"
    lines = [tested.format(**result)]
    lines.append(describe(result["training"]))
    if balance := describe_balance(result["training"]):
        lines.append(balance)
    for rival in result.get("rivals", []):
        lines.append(_rival(rival))
    if (calibration := result["calibration"]) is not None:
        lines.append(
            "Confidence: expected calibration error {expected_calibration_error:.1%}, "
            "{expected_calibration_error_uncalibrated:.1%} before calibration".format(
                **calibration
            )
            + (f"; temperature {calibration['note']}" if calibration["note"] else "")
        )
    if result["area_adjusted"] is not None:
        value, low, high = result["area_adjusted"]["overall_accuracy"]
        lines.append(
            f"Whole map: overall accuracy {value:.2%}, {low:.2%} to {high:.2%} "
            "(95 % interval)"
        )
    if "target" in result:
        lines.append(f"Target: {figures}".format(**result["target"]))
    return "\n".join(lines)


def _rival(rival: dict[str, Any]) -> str:
    """Return a line on a simple rival's accuracy on the same pixels."""
    line = (
        "Rival {name} ({variant}): overall accuracy {overall_accuracy:.2%}, average "
        "accuracy {average_accuracy:.2%}"
    ).format(**rival)
    line += f"; the network {100 * rival['difference']:+.1f} points"
    if rival["interval"] is not None:
        low, high = (100 * value for value in rival["interval"])
        line += f" ({low:+.1f} to {high:+.1f}, 95 % interval over blocks)"
    return line


def _recipe_content(what: str, options: dict[str, Any]) -> dict[str, Any]:
    """Turn METHOD or RECIPE and the options beside it into a recipe's content."""
    from hsi_train import recipe

    content: dict[str, Any]
    content = {"method": what} if what in methods.names() else recipe.load(what)
    for table in ("data", "fit"):
        if not isinstance(content.setdefault(table, {}), dict):
            raise RecipeError(f"{what}: {table} must be a section, [{table}].")
    data = content["data"]
    for key, value in {
        "scenes": list(options["scene"]),
        "labels": list(options["labels"]),
        "label_field": options["label_field"],
        "classes": options["classes"],
        "dark": options["dark"],
        "white": options["white"],
        "gain": options["gain"],
        "offset": options["offset"],
        "spectra": list(options["spectra"]),
        "group_field": options["group_field"],
        "scale": options["scale"],
        "bands_of": options["bands_of"],
    }.items():
        if value not in (None, []):
            data[key] = value
    for name, key in (("--scene", "scenes"), ("--labels", "labels")):
        if not data.get(key) and not data.get("spectra"):
            raise click.UsageError(f"Missing {name}.")
    _add_target(content, options)
    split = _split(options)
    if split:
        content["split"] = split
    if options["probability_sample"]:
        recipe.override(content, "split.probability_sample=true")
    _pretraining(options, content)
    for key in ("seed", "rivals", "members"):
        if options[key] is not None:
            content[key] = options[key]
    _length(options, content["fit"])
    for assignment in options["settings"]:
        recipe.override(content, assignment)
    return content


def _add_target(content: dict[str, Any], options: dict[str, Any]) -> None:
    given = {"scenes": options["target_scene"], "labels": options["target_labels"]}
    target = {key: list(value) for key, value in given.items() if value}
    if target:
        table = content.setdefault("target", {})
        if not isinstance(table, dict):
            raise RecipeError("target must be a section, [target].")
        table |= target
        for name, key in (("scene", "scenes"), ("labels", "labels")):
            if not table.get(key):
                raise click.UsageError(f"Missing --target-{name}.")


def _pretraining(options: dict[str, Any], content: dict[str, Any]) -> None:
    scenes, init = list(options["pretrain_scene"]), options["init"]
    if scenes and init is not None:
        raise click.UsageError("--pretrain-scene and --init exclude each other.")
    if scenes or init is not None:
        table = content.get("pretrain")
        kept = dict(table) if isinstance(table, dict) else {}
        for key in ("scenes", "init"):  # one replaces the other in a recipe
            kept.pop(key, None)
        given = {"scenes": scenes} if scenes else {"init": init}
        content["pretrain"] = kept | given


def _length(options: dict[str, Any], fit: dict[str, Any]) -> None:
    """Let a length that is given replace that of a recipe."""
    given = {key: options[key] for key in ("epochs", "quick", "budget") if options[key]}
    if len(given) > 1:
        raise click.UsageError("--epochs, --quick and --budget exclude each other.")
    if given:
        for key in ("epochs", "quick", "budget"):
            fit.pop(key, None)
        fit |= given


def _split(options: dict[str, Any]) -> dict[str, Any]:
    files = [s for s in options["split"] if s != "disjoint"]
    samples, share = options["samples_per_class"], options["train_fraction"]
    folds = options["folds"]
    given = [bool(options["split"]), *(v is not None for v in (samples, share, folds))]
    if sum(given) > 1 or (files and "disjoint" in options["split"]):
        raise click.UsageError(
            "--split, --samples-per-class, --train-fraction and --folds exclude each "
            "other."
        )
    if folds is not None:
        return {"mode": "folds", "folds": folds}
    if files:
        return {"mode": "file", "files": files}
    if samples is not None:
        return {"mode": "per-class", "samples_per_class": samples}
    if share is not None:
        return {"mode": "fraction", "train_fraction": share}
    return {"mode": "disjoint"} if options["split"] else {}


def _train(
    recipe: Any,
    run: Path,
    seeds: int | None,
    workers: int,
    device: str,
    resume: bool,
    overwrite: bool,
    quiet: bool,
) -> dict[str, Any]:
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    from hsi_train.several.dispatch import train
    from hsi_train.several.seeds import train_seeds

    messages = [logging.getLogger(name) for name in ("hsi_train", "hsi_runtime")]
    with (
        logging_redirect_tqdm(messages),  # above the bar, not into it
        tqdm(
            disable=not command_line.show_progress(quiet), unit="step", leave=False
        ) as bar,
    ):
        watch = _Bar(bar).watch()
        if seeds is None:
            return train(recipe, run, device, resume, overwrite, watch, workers)
        return train_seeds(
            recipe, run, seeds, device, resume, overwrite, watch, workers
        )


class _Bar:
    """Shows a training in a progress bar: phase, losses, kappa, expected end."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self._measured: dict[str, str] = {}

    def watch(self) -> "Watch":
        """Return what tells the bar."""
        from hsi_train.fitting.progress import Watch

        return Watch(phase=self._phase, step=self._step, epoch=self._epoch)

    def _phase(self, name: str) -> None:
        self._bar.set_description(name, refresh=False)

    def _step(self, done: int, steps: int, loss: float) -> None:
        bar = self._bar
        if done < bar.n:  # another training begins
            self._measured = {}
            bar.reset(steps)
        bar.total = steps
        bar.set_postfix({"loss": f"{loss:.3f}"} | self._measured, refresh=False)
        bar.update(done - bar.n)

    def _epoch(self, epoch: "Epoch") -> None:
        if epoch.validation_loss is not None and epoch.validation_kappa is not None:
            self._measured = {
                "validation loss": f"{epoch.validation_loss:.3f}",
                "kappa": f"{epoch.validation_kappa:.3f}",
            }


def _list(as_json: bool) -> None:
    from hsi_train import recipe

    if as_json:
        command_line.print_json(
            {"methods": methods.names(), "recipes": recipe.shipped()}
        )
        return
    click.echo("Methods:\n  " + "\n  ".join(methods.names()))
    click.echo("Recipes:\n  " + ("\n  ".join(recipe.shipped()) or "none"))


def main() -> None:
    """Run hsi-train."""
    command_line.run(command, "--resume goes on with the run.")
