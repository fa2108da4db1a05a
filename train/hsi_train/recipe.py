"""Recipes: the settings of one training run, as TOML."""

import itertools
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import tomli_w
from msgspec import Meta

from hsi_runtime.camera.references import References
from hsi_runtime.errors import RecipeError
from hsi_runtime.files import read_whole
from hsi_runtime.model.plain_text import plain

MOST_BYTES = 1024**2  # of a file
MOST_DOTS = 64  # of a key
MOST_DEPTH = 16  # of tables and lists within each other
Share = Annotated[float, Meta(gt=0, lt=1)]
Count = Annotated[int, Meta(ge=1)]
Text = Annotated[str, Meta(min_length=1)]  # an unset variable of a shell gives none
Side = Annotated[int, Meta(ge=1, le=1024)]  # pixels of a square of a window


MEMBER_STEP = 1_000_003  # between the seeds of members, farther than users' are
UNITS = {"s": 1, "m": 60, "h": 3600}


def seconds_of(text: str) -> float:
    """Parse a length of time such as ``30s``, ``10m`` or ``1.5h``.

    Raises:
        ValueError: It is none, or no longer than nothing.
    """
    parts = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([smh])", text.strip(), re.ASCII)
    seconds = 0.0 if parts is None else float(parts[1]) * UNITS[parts[2]]
    if not seconds:
        raise ValueError(f"{text!r} is not a time such as 30s, 10m or 1h")
    return seconds


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of a recipe; an unknown key is an error."""


class Data(_Table, frozen=True):
    """The ``[data]`` table.

    Attributes:
        scenes: Scenes or folders of scenes; ``$VARIABLES`` are expanded.
        labels: One raster for each scene, or one vector file.
        label_field: Field of the vector file, or of the spectra, that holds the class.
        classes: JSON file of class names and colours.
        exclude: Classes, by name or code, whose pixels count as unlabelled.
        quantity: What the values are: reflectance, radiance, ...
        dark: Reference of a camera that stores raw counts: lines without light.
        white: Reference of the same camera: lines of a white panel.
        gain: In place of these: one line of factors, for each column and band.
        offset: One line of summands; the value is count * gain + offset.
        spectra: In place of scenes and labels: ENVI spectral libraries, CSV files or
            points with spectra.
        group_field: Field of the spectra that names what was measured: spectra of one
            object train or test together.
        scale: Quantity = value * scale, where the file of the spectra does not state
            it.
        bands_of: Scene to whose bands the spectra are resampled.
    """

    scenes: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    label_field: Text | None = None
    classes: Text | None = None
    exclude: tuple[str | int, ...] = ()
    quantity: Text = "unknown"
    dark: Text | None = None
    white: Text | None = None
    gain: Text | None = None
    offset: Text | None = None
    spectra: tuple[str, ...] | None = None
    group_field: Text | None = None
    scale: Annotated[float, Meta(gt=0, le=1e6)] | None = None
    bands_of: Text | None = None

    def __post_init__(self) -> None:
        """Refuse a run without data, with two kinds, or with half a calibration."""
        if self.spectra is not None:
            if not self.spectra:
                raise ValueError("spectra must name a file")
            if self.scenes or self.labels or any(self.references):
                raise ValueError(
                    "spectra are given in place of scenes, labels and their references"
                )
            return
        if self.group_field or self.scale or self.bands_of:
            raise ValueError("group_field, scale and bands_of need spectra")
        if not self.scenes or not self.labels:
            raise ValueError("scenes and labels must each name a file")
        problem = self.references.problem()
        if problem is not None:
            raise ValueError(problem[0])

    @property
    def references(self) -> References:
        """Files that calibrate raw counts, as they are named."""
        files = (self.dark, self.white, self.gain, self.offset)
        return References(*(Path(file) if file else None for file in files))


class Target(_Table, frozen=True):
    """The ``[target]`` table: other scenes, on which the trained method is measured.

    Attributes:
        scenes: As in ``[data]``.
        labels: As in ``[data]``.
        label_field: For a vector file; default: that of ``[data]``.
        classes: JSON file of class names; default: that of ``[data]``.
    """

    scenes: tuple[str, ...]
    labels: tuple[str, ...]
    label_field: Text | None = None
    classes: Text | None = None

    def __post_init__(self) -> None:
        """Refuse a target without data."""
        if not self.scenes or not self.labels:
            raise ValueError("scenes and labels must each name a file")


class Split(_Table, frozen=True):
    """The ``[split]`` table.

    Attributes:
        mode: How labelled pixels are divided.
        folds: For mode ``folds``: number of parts of the ground, each of which is the
            test ground of one run; a last model is trained on all labels.
        fold: Number of one such run, from 1; left out, all are trained.
        files: For mode ``file``: rasters with 1 train, 2 validation, 3 test. For mode
            ``test-labels``: one label map of test pixels for each scene; the labels of
            ``[data]`` are then those of the training pixels.
        samples_per_class: For mode ``per-class``.
        train_fraction: For mode ``fraction``.
        probability_sample: Only where it is true: the test pixels were drawn at random
            from the whole scenes, so that areas can be estimated from them. For the
            modes whose test pixels are the user's: ``file`` and ``test-labels``.
    """

    mode: Literal[
        "disjoint", "file", "test-labels", "per-class", "fraction", "folds", "all"
    ] = "disjoint"
    folds: Annotated[int, Meta(ge=2, le=100)] | None = None
    fold: Count | None = None
    files: tuple[str, ...] = ()
    samples_per_class: Count | None = None
    train_fraction: Share | None = None
    probability_sample: bool = False

    def __post_init__(self) -> None:
        """Refuse settings that belong to another mode."""
        if self.probability_sample and self.mode not in ("file", "test-labels"):
            raise ValueError(
                f"mode is {self.mode!r}, whose test pixels are no random sample of the "
                "scene; probability_sample needs the sample as test pixels of a "
                "--split FILE, or of mode 'test-labels'"
            )
        needs = {
            ("file", "test-labels"): bool(self.files),
            ("per-class",): self.samples_per_class is not None,
            ("fraction",): self.train_fraction is not None,
            ("folds",): self.folds is not None,
        }
        if self.fold is not None and self.fold > (self.folds or 0):
            raise ValueError(f"fold is {self.fold} of {self.folds or 0} folds")
        for modes, given in needs.items():
            if given != (self.mode in modes):
                raise ValueError(
                    f"mode is {self.mode!r}, but the setting of mode "
                    f"{' or '.join(map(repr, modes))} is "
                    + ("given" if given else "missing")
                )


class Fit(_Table, frozen=True):
    """The ``[fit]`` table; what is left out is chosen from the method and the data.

    Attributes:
        epochs: Passes over the training windows; left out, training goes on until
            validation gets no better.
        outputs: Side of the classified square of a training window; 1 is a patch.
        batch: Windows in a step.
        learning_rate: Steady learning rate, after a warm-up and before a decay.
        weight_decay: AdamW weight decay.
        gain: Windows are brightened by up to this share.
        noise: Added noise, in standard deviations of a band.
        masked: Share of a window's pixels that are hidden: the mean stands for them.
        patience: End after so many rounds without a better validation, epochs if their
            number is given; 0 = never. Left out, it is 8, or 0 with ``epochs``.
        linear_path: Add linear discriminants, fitted in closed form, to the network's
            scores; false is the published network alone.
        quick: Train for a first look, a hundred steps.
        budget: Time that training may take, measuring and report included, such as
            ``30s``, ``10m`` or ``1h``.
    """

    epochs: Count | None = None
    outputs: Side | None = None
    batch: Count | None = None
    learning_rate: Annotated[float, Meta(gt=0, le=1e6)] | None = None
    weight_decay: Annotated[float, Meta(ge=0, le=1e6)] | None = None
    gain: Annotated[float, Meta(ge=0, lt=1)] | None = None
    noise: Annotated[float, Meta(ge=0, le=1e6)] | None = None
    masked: Annotated[float, Meta(ge=0, lt=1)] | None = None
    patience: Annotated[int, Meta(ge=0)] | None = None
    linear_path: bool = True
    quick: bool = False
    budget: str | None = None

    def __post_init__(self) -> None:
        """Refuse two lengths, and a budget that is no time."""
        given = (self.epochs is not None, self.quick, self.budget is not None)
        if sum(given) > 1:
            raise ValueError("epochs, quick and budget exclude each other")
        if self.budget is not None:
            seconds_of(self.budget)


class Pretrain(_Table, frozen=True):
    """The ``[pretrain]`` table, for methods with an encoder.

    Attributes:
        scenes: Scenes or folders to train the encoder on; no labels are read.
        init: Encoder of another run to start from, in place of scenes.
        steps: Optimiser steps.
        batch: Windows in a step.
        outputs: Side of the part of a window that is predicted.
        learning_rate: Peak of the one-cycle schedule.
        weight_decay: AdamW weight decay.
    """

    scenes: tuple[str, ...] = ()
    init: Text | None = None
    steps: Count = 600
    batch: Count = 8
    outputs: Side = 12
    learning_rate: Annotated[float, Meta(gt=0, le=1e6)] = 1.5e-3
    weight_decay: Annotated[float, Meta(ge=0, le=1e6)] = 0.05

    def __post_init__(self) -> None:
        """Refuse a table that names no encoder, or two."""
        if bool(self.scenes) == (self.init is not None):
            raise ValueError("give either scenes or init")


class Recipe(_Table, frozen=True):
    """One training run.

    Attributes:
        method: File name of the method.
        seed: Seed of every random draw.
        data: What to train on.
        split: How to divide it.
        fit: How to train.
        pretrain: How to train the encoder first; None starts from random weights.
        options: The method's own settings; see its file.
        target: What to measure on besides the test pixels; it trains nothing.
        members: Number of trainings on the same split whose probabilities one model
            averages.
        member: Number of one such training, from 1; each starts at other weights.
        rivals: Simple classifiers to compare with on the same pixels: ``cheap`` (linear
            discriminants, seconds), ``all`` (support vector machines and a random
            forest, too; minutes) or ``none``.
    """

    method: str
    data: Data
    seed: Annotated[int, Meta(ge=0, lt=2**32)] = 0
    split: Split = Split()
    fit: Fit = Fit()
    pretrain: Pretrain | None = None
    options: dict[str, Any] = {}
    target: Target | None = None
    members: Annotated[int, Meta(ge=1, le=100)] = 1
    member: Count | None = None
    rivals: Literal["cheap", "all", "none"] = "cheap"

    def __post_init__(self) -> None:
        """Refuse settings that exclude each other."""
        if self.members > 1 and (self.member or self.split.mode == "folds"):
            raise ValueError("members exclude a single member, and folds")
        if self.data.spectra is not None:
            _check_spectra(self)
        if any(self.data.references) and (self.pretrain or self.target):
            raise ValueError(
                "data.dark, data.white and data.gain calibrate the training scenes "
                "only; without them, give reflectance where there is a target or "
                "pretrain table"
            )
        if self.split.probability_sample and self.data.exclude:
            raise ValueError(
                "data.exclude takes pixels out of the random sample of "
                "split.probability_sample; use one of the two"
            )


def _check_spectra(recipe: Recipe) -> None:
    """Refuse what needs pixels of a scene, where spectra train."""
    mode = recipe.split.mode
    if mode in ("file", "test-labels"):
        raise ValueError(
            f"mode is {mode!r}, whose rasters lie on the grid of a scene; spectra have "
            "none"
        )
    if recipe.data.group_field and mode in ("per-class", "fraction"):
        raise ValueError(
            f"mode is {mode!r}, which parts spectra of one object; leave out "
            "data.group_field, or the mode"
        )
    if recipe.members > 1:
        raise ValueError("members are trained on scenes; of spectra they are all alike")
    if recipe.rivals == "all":
        raise ValueError("rivals 'all' see neighbours, which spectra have not")


def training_seed(recipe: Recipe) -> int:
    """Return the seed of all draws but the split's, which members share."""
    return (recipe.seed + MEMBER_STEP * ((recipe.member or 1) - 1)) % 2**32


def load(source: str) -> dict[str, Any]:
    """Read a recipe file, or one that ships with the package by its name.

    Raises:
        RecipeError: There is no such recipe, or it is no TOML.
    """
    path = Path(source)
    try:
        if path.is_file():
            text = read_whole(path, MOST_BYTES, RecipeError).decode("utf-8")
        else:
            name = source.removesuffix(".toml")
            text = (_shipped() / f"{name}.toml").read_text(encoding="utf-8")
        # The time that tomllib takes grows with the square of a key's parts.
        if any(part.count(".") > MOST_DOTS for part in re.split(r"[={},\n]", text)):
            raise RecipeError(f"{source}: a key or a text has more than 64 dots.")
        return tomllib.loads(text)
    except RecursionError as error:
        raise RecipeError(f"{source} is nested too deeply to be a recipe.") from error
    except OSError as error:
        raise RecipeError(
            f"There is no method or recipe {source}; hsi-train --list shows what ships."
        ) from error
    except ValueError as error:  # text that is no UTF-8, a number of 5,000 digits
        raise RecipeError(f"{source} is not TOML: {error}.") from error


def shipped() -> list[str]:
    """List the recipes that ship with the package."""
    return sorted(p.name[:-5] for p in _shipped().iterdir() if p.name.endswith(".toml"))


def _shipped() -> Any:
    return resources.files("hsi_train") / "recipes"


def parse(content: dict[str, Any]) -> Recipe:
    """Check a recipe.

    Raises:
        RecipeError: An unknown key, a wrong type, or a contradiction.
    """
    if _depth(content) > MOST_DEPTH:
        raise RecipeError("Recipe: tables or lists are nested too deeply.")
    try:
        return msgspec.convert(content, Recipe, strict=True)
    except msgspec.ValidationError as error:
        raise RecipeError(f"Recipe: {error}") from error


def _depth(content: Any) -> int:
    """Count how deep tables and lists are nested; keys with dots nest tables, too."""
    depth, level = 0, [content]
    while level and depth <= MOST_DEPTH:
        depth += 1
        level = list(itertools.chain.from_iterable(map(_inside, level)))
    return depth


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, list | tuple) else ()


def override(content: dict[str, Any], assignment: str) -> None:
    """Apply ``section.key=value`` in place; the value is TOML, else a plain string.

    Raises:
        RecipeError: No such form.
    """
    path, equals, text = assignment.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise RecipeError(f"--set {assignment!r}: expected section.key=value.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise RecipeError(f"--set {path}: the value is no TOML: {reason}.") from error
    table = content
    for key in keys[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise RecipeError(f"--set {assignment!r}: {key} is not a section.")
    table[keys[-1]] = value


def dump(recipe: Recipe) -> str:
    """Write a recipe as TOML; `parse` reads it back equal."""
    return tomli_w.dumps(_without_none(msgspec.to_builtins(recipe)))


def _without_none(content: Any) -> Any:
    if isinstance(content, dict):
        return {k: _without_none(v) for k, v in content.items() if v is not None}
    return content


def expanded(path: str) -> str:
    """Expand ``$VARIABLES`` and ``~`` in a path of a recipe.

    Raises:
        RecipeError: A variable is not set, or no file can have that name.
    """
    if not path:
        raise RecipeError("A path in the recipe is empty.")
    if "\0" in path:
        raise RecipeError(f"{plain(path)!r} holds a NUL, which no path does.")
    out = os.path.expanduser(os.path.expandvars(path))
    if "$" in out:
        raise RecipeError(f"{path}: the environment variable in it is not set.")
    return out
