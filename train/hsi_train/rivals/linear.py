"""Linear rivals: the sum of discriminants that is method ``lda``, and its best one."""

import numpy as np
import torch
from numpy.typing import NDArray

from hsi_train.data.labelled_scene import LabelledData
from hsi_train.data.roles import Role
from hsi_train.fitting.predict import Scorer
from hsi_train.layers import LinearFit
from hsi_train.linear import choice
from hsi_train.linear.choice import Linear, Variant
from hsi_train.linear.spectra import training_pixels
from hsi_train.method import Problem
from hsi_train.rivals.candidate import Candidate, view_text

SINGLE, SUM = "lda", "lda-sum"


def candidates(
    data: LabelledData, problem: Problem, linear: Linear | None, device: torch.device
) -> list[Candidate]:
    """Classify the test pixels by the best discriminant, and by the sum of several.

    Args:
        data: Labelled scenes with the roles of their pixels.
        problem: Statistics of the training pixels.
        linear: Discriminants that were fitted before, or None.
        device: Where to compute.
    """
    if linear is None:
        pixels = training_pixels(data.scenes, problem.fill, len(data.classes))
        linear = choice.fit_chosen(pixels, problem)

    def classify(fit: LinearFit) -> list[NDArray[np.int16]]:
        scorer = Scorer.of_linear(fit, problem, device)
        return [scorer.classes(s, s.roles == Role.TEST) for s in data.scenes]

    best, count = linear.choice.best, len(linear.choice.shares)
    return [
        Candidate(SINGLE, _named(best), classify(linear.single)),
        Candidate(SUM, f"sum of {count}", classify(linear.total)),
    ]


def _named(variant: Variant) -> str:
    side, brightness_free = variant.view
    return view_text("brightness-free spectra" if brightness_free else "spectra", side)
