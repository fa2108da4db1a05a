import math

import pytest
import torch
from torch import Tensor

from hsi_train.method import IGNORED
from hsi_train.methods.s2amsnet.game import contrast, inconsistency, squares

CLASSES = 3


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p / q).log()).sum(dim=1)


def test_inconsistency_is_the_kl_divergence_over_known_outputs() -> None:
    torch.manual_seed(0)
    scores = tuple(torch.randn(2, CLASSES, 3, 4, dtype=torch.float64) for _ in range(4))
    classes = torch.randint(-1, CLASSES, (2, 3, 4))
    assert (classes == IGNORED).any()
    altered1, altered2, mixed1, mixed2 = (torch.softmax(s, dim=1) for s in scores)
    each = kl(mixed2, altered1) + kl(mixed1, altered2)
    found = inconsistency(scores, classes)
    assert float(found) == pytest.approx(float(each[classes != IGNORED].mean()))
    assert found > 0
    same = inconsistency((scores[0],) * 4, classes)
    assert float(same) == pytest.approx(0, abs=1e-12)
    nothing = inconsistency(scores, torch.full_like(classes, IGNORED))
    assert float(nothing) == 0


def test_contrast_is_what_its_formula_says() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(5, 6), torch.randn(5, 6)
    rows = [v / v.norm() for v in (*a, *b)]
    terms = []
    for i, row in enumerate(rows):
        similar = [math.exp(float(row @ other) / 0.07) for other in rows]
        partner = (i + 5) % 10
        others = sum(s for j, s in enumerate(similar) if j not in (i, partner))
        terms.append(-math.log(similar[partner] / (similar[partner] + others)))
    assert float(contrast(a, b)) == pytest.approx(sum(terms) / 10, rel=1e-4)
    assert contrast(a, a) < contrast(a, b)
    assert float(contrast(a[:1], b[:1])) == 0


def test_squares_are_the_patches_of_a_window() -> None:
    x = torch.arange(2 * 3 * 8 * 7, dtype=torch.float32).reshape(2, 3, 8, 7)
    found = squares(x, 3)
    assert found.shape == (8, 3, 3, 3)
    assert torch.equal(found[0], x[0, :, :3, :3])
    assert torch.equal(found[1], x[0, :, :3, 3:6])
    assert torch.equal(found[6], x[1, :, 3:6, :3])
    assert torch.equal(squares(x[..., :3, :3], 3), x[..., :3, :3])
