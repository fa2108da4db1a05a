"""LDA: linear discriminants of window means, the reference that a network must beat.

No published network: linear discriminant analysis with a shrunk common covariance
(Friedman, JASA 84(405), 1989) of spectra averaged over squares of 1 to 9 pixels, with
and without brightness. Blocked folds of the training pixels choose which ones are
added: see `hsi_train.linear.choice`. It is fitted in closed form within seconds, is the
fastest to run, and with few labels is often the most accurate. Trained on spectra that
were measured one by one, it sees single pixels.

Axes: ``(batch, band or class, row, col)``.
"""

import msgspec

from hsi_runtime.errors import RecipeError
from hsi_train.layers import LINEAR_SIDES, LinearPath
from hsi_train.method import BaseMethod, Defaults, Problem


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ``[options]`` table of a recipe; there is nothing to set."""


class Method(BaseMethod):
    """The linear path alone; nothing is left to train."""

    receptive_field = LINEAR_SIDES[-1]
    defaults = Defaults(trains=False)
    takes_spectra = True

    def __init__(self, problem: Problem, options: Options) -> None:
        super().__init__(problem._replace(linear=None))
        if problem.linear is None:
            raise RecipeError("lda is the linear path; leave out fit.linear_path.")
        self.problem = problem
        self.receptive_field = LINEAR_SIDES[len(problem.linear.bands) - 1]
        self.network: LinearPath = LinearPath(
            problem.linear, problem.band_mean, problem.band_std, self.halo
        )
