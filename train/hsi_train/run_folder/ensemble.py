"""Several trained methods as one: the mean of their probabilities, one graph."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hsi_runtime.model.model_file import PROBABILITIES
from hsi_train.layers import Probabilities
from hsi_train.method import BaseMethod

LEAST = 1e-7  # smallest mean probability; half precision has no smaller ones


class MeanScores(nn.Module):
    """Logarithm of the members' mean probabilities: scores of their ensemble.

    Args:
        graphs: Exported functions of the members.
        index: Number of the probabilities among their outputs.
    """

    def __init__(self, graphs: Sequence[nn.Module], index: int) -> None:
        super().__init__()
        self.graphs, self.index = nn.ModuleList(graphs), index

    def forward(self, cube: Tensor) -> Tensor:
        """Map ``(batch, band, row, col)`` to scores, without the halo."""
        return self.scores_of(self.means(cube))

    def means(self, cube: Tensor) -> list[Tensor]:
        """Average each of the members' outputs."""
        by_output = zip(*(graph(cube) for graph in self.graphs), strict=True)
        return [torch.stack(each).mean(dim=0) for each in by_output]

    def scores_of(self, means: Sequence[Tensor]) -> Tensor:
        """Return the scores that give the mean probabilities back."""
        return torch.log(means[self.index].clamp(min=LEAST))


class MeanGraph(nn.Module):
    """The exported function of an ensemble: the members' outputs, averaged."""

    def __init__(self, mean: MeanScores, probabilities: Probabilities) -> None:
        super().__init__()
        self.mean, self.probabilities = mean, probabilities

    def forward(self, cube: Tensor) -> tuple[Tensor, ...]:
        """Map a cube to what each member would give of it."""
        means = self.mean.means(cube)
        means[self.mean.index] = self.probabilities(self.mean.scores_of(means))
        return tuple(means)


class Ensemble(BaseMethod):
    """Members of one method, trained on the same pixels from other weights.

    Abundances and endmembers of members that unmix are averaged, too.
    """

    network: MeanScores

    def __init__(self, members: Sequence[BaseMethod]) -> None:
        """Take members of one method; see `of`, which knows their kind."""
        super().__init__(members[0].problem._replace(linear=None))
        self.problem = members[0].problem
        self.members = members
        graphs = [member.inference_graph() for member in members]
        self.network = MeanScores(graphs, self._index)

    @property
    def _index(self) -> int:
        return self.outputs.index(PROBABILITIES)

    def inference_graph(self) -> nn.Module:
        return MeanGraph(self.network, self.probabilities)

    def folded_graph(self) -> nn.Module:
        graphs = [member.folded_graph() for member in self.members]
        return MeanGraph(MeanScores(graphs, self._index), self.probabilities)

    @torch.no_grad()
    def endmembers(self) -> Tensor | None:
        spectra = [member.endmembers() for member in self.members]
        present = [one for one in spectra if one is not None]
        if not present:
            return None
        return torch.stack(present).mean(dim=0)

    def training_only(self) -> list[str]:
        return [
            f"members.{number}.{name}"
            for number, member in enumerate(self.members)
            for name in member.training_only()
        ]


def of(members: Sequence[BaseMethod]) -> Ensemble:
    """Join members of one method, which have the same receptive field and outputs."""
    first = members[0]
    kind = type(
        "Ensemble",
        (Ensemble,),
        {"receptive_field": first.receptive_field, "outputs": first.outputs},
    )
    joined: Ensemble = kind(members).to(first.class_weights.device)
    return joined
