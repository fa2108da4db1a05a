"""How a method is trained: what the recipe leaves open is chosen from the data."""

import math

import msgspec

from hsi_runtime.errors import RecipeError
from hsi_train.fitting.windows import Windows
from hsi_train.method import Defaults
from hsi_train.recipe import Fit

DENSE_OUTPUTS = 8  # classified square of a window where labels are dense
DENSE_BATCH = 8  # windows of a step
PLOTS_BATCH = 32  # the same where no scene is larger than a plot
PLOT = 32  # pixels; the smaller side of a scene that is more than a plot
DENSE_GAIN = 4  # windows must save this factor of work to be chosen over patches
MIN_PATCHES = 3  # even steps of at most three patches hold at least two
PATIENCE = 8  # rounds


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The ``[fit]`` table of a recipe, complete; see `Fit`.

    Attributes:
        epochs: Passes over the training windows; 0 where nothing is to be trained, None
            to train until nothing more is learned.
        outputs: Side of the classified square of a training window.
        batch: Windows in a step.
        learning_rate: Steady learning rate.
        weight_decay: AdamW weight decay.
        gain: Largest random change of a window's brightness, as a share.
        noise: Added noise, in standard deviations of a band.
        masked: Share of a window's pixels that are hidden.
        patience: Rounds without a better validation after which training ends; 0 never.
        linear_path: Add the linear path to the network's scores.
        quick: Train for a first look only.
        budget: Time that training may take; None for no limit.
    """

    epochs: int | None
    outputs: int
    batch: int
    learning_rate: float
    weight_decay: float
    gain: float
    noise: float
    masked: float
    patience: int
    linear_path: bool
    quick: bool = False
    budget: str | None = None


def choose_settings(
    requested: Fit, windows: Windows, halo: int, defaults: Defaults
) -> Settings:
    """Fill in what the recipe leaves open, from the data and the method's defaults.

    Few labels are trained by patches, dense ones by small windows: whichever computes
    less for the same pixels, patches when in doubt, because they mix better. Large
    windows show a step too few places and classes: with two windows of 32 px in a step,
    120 steps of S2AMSnet's classifier reached 43 % on Indian Pines where 120 steps of
    patches reached 60. Plots need many windows in a step: batch statistics of a few
    plots are not those of all.

    Raises:
        RecipeError: Steps too small for batch statistics.
    """
    outputs, batch = requested.outputs, requested.batch
    if outputs is None:
        pixels = len(windows.training_pixels())
        patch_work = pixels * (2 * halo + 1) ** 2
        grid = windows.grid(DENSE_OUTPUTS, None)
        dense_work = len(grid) * (DENSE_OUTPUTS + 2 * halo) ** 2
        outputs = DENSE_OUTPUTS if patch_work > DENSE_GAIN * dense_work else 1
    if batch is None:
        largest = max(min(target.shape) for target in windows.targets)
        dense = DENSE_BATCH if largest >= PLOT else PLOTS_BATCH
        batch = dense if outputs > 1 else defaults.batch
    if outputs == 1 and batch < MIN_PATCHES:
        raise RecipeError(
            f"fit.batch is {batch}, so a step may hold a single pixel, which has no "
            f"batch statistics; use at least {MIN_PATCHES}, or windows (fit.outputs)."
        )
    rates = {
        key: getattr(
            requested if getattr(requested, key) is not None else defaults, key
        )
        for key in ("learning_rate", "weight_decay", "gain", "noise", "masked")
    }
    patience = requested.patience
    if patience is None:
        patience = PATIENCE if requested.epochs is None else 0
    return Settings(
        epochs=requested.epochs if defaults.trains else requested.epochs or 0,
        outputs=outputs,
        batch=batch,
        patience=patience,
        linear_path=requested.linear_path,
        quick=requested.quick,
        budget=requested.budget,
        **rates,
    )


def steps_of_pass(windows: Windows, settings: Settings) -> int:
    """Count the steps of a pass over the training windows."""
    if settings.outputs == 1:
        return math.ceil(len(windows.training_pixels()) / settings.batch)
    return math.ceil(len(windows.grid(settings.outputs, None)) / settings.batch)
