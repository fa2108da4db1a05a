import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from hsi_runtime.errors import RecipeError
from hsi_train import methods
from hsi_train.layers import parameter_count
from hsi_train.method import IGNORED, Batch, Problem
from hsi_train.methods import s2vnet
from hsi_train.methods.s2vnet import Method
from hsi_train.methods.s2vnet.endmembers import (
    divergence,
    initial_theta,
    relative_sizes,
    shapes,
    spectral_angles,
)
from hsi_train.methods.s2vnet.network import Cosine, among_neighbours, fold
from hsi_train.methods.s2vnet.objective import (
    Mixtures,
    mixtures,
    roughness,
)
from hsi_train.methods.s2vnet.spatial import NormedScores, Retention

BANDS, CLASSES, SIDE = 9, 4, 11


def build(
    options: dict[str, object] | None = None,
    bands: int = BANDS,
    classes: int = CLASSES,
) -> Method:
    generator = torch.Generator().manual_seed(bands)
    means = 1000 * torch.rand(classes, bands, generator=generator) + 100
    problem = Problem(
        band_mean=means.mean(dim=0),
        band_std=torch.full((bands,), 200.0),
        class_counts=torch.full((classes,), 10),
        class_means=means,
        top=means.max(),
    )
    torch.manual_seed(1)
    method = methods.build("s2vnet", problem, options or {})
    assert isinstance(method, Method)
    return method


def batch_of(method: Method, side: int = SIDE + 1, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    classes = torch.arange(8) % CLASSES
    spectra = method.problem.class_means[classes][..., None, None]
    noise = torch.randn(8, BANDS, side, side, generator=generator)
    outputs = side - SIDE + 1
    return Batch(
        (spectra + 50 * noise).float(),
        classes[:, None, None].expand(8, outputs, outputs).contiguous(),
    )


def step(method: Method, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
    for loss in method.losses(batch):
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def trained(options: dict[str, object] | None = None) -> Method:
    """Weights and statistics that are no longer the initial ones."""
    method = build(options).train()
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-2)
    for number in range(5):
        step(method, optimizer, batch_of(method, seed=number))
    return method.eval()


def varied() -> Method:
    """Endmembers far from the class means, by every part of the variational network."""
    method = trained()
    assert method.variability is not None
    with torch.no_grad():
        for parameter in method.variability.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return method


@pytest.mark.parametrize(("nonlinear", "count"), [(False, 72_942), (True, 156_582)])
def test_parameter_count(nonlinear: bool, count: int) -> None:
    assert (
        parameter_count(build({"nonlinear_decoder": nonlinear}, bands=204, classes=6))
        == count
    )


def test_exported_part_is_the_same_whatever_the_decoder() -> None:
    counts = {
        parameter_count(
            build({"nonlinear_decoder": n, "variability": v}, 204, 6).network
        )
        for n in (False, True)
        for v in (False, True)
    }
    assert counts == {70_516}


def test_network_holds_nothing_of_training() -> None:
    method = build()
    parts = {name.split(".")[0] for name in method.training_only()}
    assert parts == {"theta", "variability", "nonlinear"}
    names = [name for name, _ in method.network.named_parameters()]
    assert not [n for n in names if "variab" in n or "theta" in n or "nonlinear" in n]
    held = method.network.cosine
    assert held is not None
    assert {n for n, _ in held.named_buffers()} == {"gram", "norms"}
    assert held.gram.shape == (CLASSES, CLASSES)


@pytest.mark.parametrize("variability", [False, True])
def test_endmembers_are_spectra_in_stored_units(variability: bool) -> None:
    method = varied() if variability else trained({"variability": False})
    found = method.endmembers()
    assert found.shape == (CLASSES, BANDS)
    assert 100 < found.amax() < 10_000
    assert found.min() >= 0
    assert not found.requires_grad


def test_endmembers_start_at_the_class_means() -> None:
    method = build()
    torch.testing.assert_close(method.endmembers(), method.problem.class_means)


def test_a_dark_material_stays_dark() -> None:
    problem = build().problem
    means = problem.class_means.clone()
    means[1] *= 0.01
    method = methods.build("s2vnet", problem._replace(class_means=means), {})
    spectra = method.endmembers()
    assert spectra is not None
    torch.testing.assert_close(spectra[1], means[1], rtol=1e-3, atol=0)


def test_initial_endmembers_are_finite_without_a_positive_value() -> None:
    means = torch.tensor([[-5.0, -1.0], [0.0, 0.0], [-1.0, 4.0]])
    theta = initial_theta(means, torch.tensor(2.0))
    assert theta.shape == (2, 3)
    assert theta.isfinite().all()
    torch.testing.assert_close(F.softplus(theta)[1, 2], torch.tensor(2.0))


def test_endmembers_do_not_depend_on_the_mode_or_on_chance() -> None:
    method = varied()
    expected = method.endmembers()
    torch.manual_seed(99)
    assert torch.equal(method.train().endmembers(), expected)


def test_training_draws_other_endmembers_each_time() -> None:
    method = varied().train()
    cube = batch_of(method).cube
    first, second = (method.unmix(cube).endmembers for _ in range(2))
    assert (first - second).abs().max() > 1e-3


def test_cosine_of_constants_is_the_cosine_of_the_mean_spectrum() -> None:
    generator = torch.Generator().manual_seed(0)
    endmembers = torch.rand(BANDS, CLASSES, generator=generator, dtype=torch.float64)
    codes = torch.randn(2, CLASSES, 9, 12, generator=generator, dtype=torch.float64)
    abundances = torch.softmax(3 * codes, dim=1)
    mixture = torch.einsum("bk,nkij->nbij", endmembers, abundances)
    windows = mixture.unfold(2, 7, 1).unfold(3, 7, 1)  # (batch, band, row, col, 7, 7)
    mean = windows.mean(dim=(-2, -1))
    expected = F.cosine_similarity(
        mean[:, :, None], endmembers[None, :, :, None, None], dim=1
    )
    cosine = Cosine(endmembers)
    found = cosine.cosines(abundances, fold(endmembers))
    assert found.shape == (2, CLASSES, 3, 6)
    assert (found - expected).abs().max() < 1e-12
    centred = 5 * (expected - expected.mean(dim=1, keepdim=True))
    assert (cosine(abundances, None) - centred).abs().max() < 1e-6


def test_folded_equals_unfolded() -> None:
    method = trained()
    cube = batch_of(method).cube
    with torch.inference_mode():
        shares = method.network.abundances(cube)
        unfolded = method.network.scores(
            cube, shares, fold(shapes(method.endmembers().T))
        )
        torch.testing.assert_close(method.network(cube), unfolded)


def test_constants_follow_every_step() -> None:
    method = build().train()
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-2)
    assert method.network.cosine is not None
    before = method.network.cosine.gram.clone()
    step(method, optimizer, batch_of(method))
    expected = fold(shapes(method.endmembers().T))
    torch.testing.assert_close(method.network.cosine.gram, expected.gram)
    torch.testing.assert_close(method.network.cosine.norms, expected.norms)
    assert not torch.equal(method.network.cosine.gram, before)


def test_constants_are_exact_where_training_is_in_half_precision() -> None:
    """As on a GPU: the loop asks for the next loss inside of autocast."""
    method = build().train()
    losses = method.losses(batch_of(method))
    with torch.autocast("cpu", torch.bfloat16):
        next(losses)
        assert next(losses, None) is None
    assert method.network.cosine is not None
    expected = fold(shapes(method.endmembers().T))
    torch.testing.assert_close(method.network.cosine.gram, expected.gram)
    torch.testing.assert_close(method.network.cosine.norms, expected.norms)


def test_evaluation_changes_nothing() -> None:
    method = varied()
    before = copy.deepcopy(method.state_dict())
    cube = batch_of(method).cube
    with torch.inference_mode():
        for _ in range(2):
            method.network(cube)
            method.inference_graph()(cube)
            method.endmembers()
    after = method.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_fresh_method_answers_alike_after_loading() -> None:
    method = trained()
    other = build().eval()
    cube = batch_of(method).cube
    with torch.inference_mode():
        assert not torch.equal(other.network(cube), method.network(cube))
        other.load_state_dict(copy.deepcopy(method.state_dict()))
        assert torch.equal(other.network(cube), method.network(cube))
        assert torch.equal(other.endmembers(), method.endmembers())


def test_one_step_changes_theta() -> None:
    method = build().train()
    before = method.theta.detach().clone()
    step(method, torch.optim.SGD(method.parameters(), lr=0.1), batch_of(method))
    assert (method.theta != before).all()


def test_the_cosine_alone_reaches_theta() -> None:
    method = build().train()
    batch = batch_of(method)
    endmembers = method.unmix(batch.cube).endmembers
    shares = method.network.abundances(batch.cube).detach()
    scores = method.network.scores(batch.cube, shares, fold(shapes(endmembers)))
    (gradient,) = torch.autograd.grad(scores.square().sum(), method.theta)
    assert gradient.any()


def test_abundances_are_shares() -> None:
    method = trained()
    cube = batch_of(method, side=15).cube * 3 - 500
    with torch.inference_mode():
        probabilities, shares = method.inference_graph().eval()(cube)
        whole = method.network.abundances(cube)
    assert shares.shape == probabilities.shape == (8, CLASSES, 5, 5)
    assert shares.min() >= 0
    assert (shares.sum(dim=1) - 1).abs().max() < 1e-6
    torch.testing.assert_close(shares, (among_neighbours(whole) + probabilities) / 2)


@settings(deadline=None, max_examples=20)
@given(
    values=st.integers(0, 2**31 - 1),
    spread=st.floats(0.0, 30.0),
    classes=st.integers(2, 12),
)
def test_shares_among_neighbours_sum_to_one(
    values: int, spread: float, classes: int
) -> None:
    generator = torch.Generator().manual_seed(values)
    codes = spread * torch.randn(2, classes, 13, 12, generator=generator)
    own = torch.softmax(codes, dim=1)
    shares = among_neighbours(own)
    assert shares.shape == (2, classes, 3, 2)
    assert shares.min() >= 0
    assert (shares.sum(dim=1) - 1).abs().max() < 1e-5


def test_shares_of_a_pure_neighbourhood_stay_as_they_are() -> None:
    pure = torch.zeros(1, 3, 11, 11)
    pure[:, 2] = 1
    assert torch.equal(among_neighbours(pure), pure[:, :, 5:6, 5:6])


def test_what_is_frequent_around_counts_more() -> None:
    own = torch.full((1, 2, 11, 11), 0.2)
    own[:, 0] = 0.8
    own[:, :, 5, 5] = 0.5
    first, second = among_neighbours(own)[0, :, 0, 0].tolist()
    assert first > 0.8
    assert first + second == pytest.approx(1)


@settings(deadline=None, max_examples=10)
@given(factor=st.floats(1e-4, 1e3))
def test_the_units_of_a_scene_do_not_change_shares(factor: float) -> None:
    """Reflectance as 0..1 or times ten thousand: a method built on either agrees."""
    problem = build().problem
    others = {
        name: getattr(problem, name) * factor
        for name in ("band_mean", "band_std", "class_means", "top")
    }
    answers, spectra = [], []
    for one, by in ((problem, 1.0), (problem._replace(**others), factor)):
        torch.manual_seed(1)
        method = methods.build("s2vnet", one, {}).eval()
        assert isinstance(method, Method)
        cube = batch_of(build()).cube * by
        with torch.inference_mode():
            answers.append(method.inference_graph()(cube)[1])
        spectra.append(method.endmembers() / by)
    torch.testing.assert_close(answers[1], answers[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(spectra[1], spectra[0], atol=1e-2, rtol=1e-4)


def test_shares_see_the_halo_and_no_further() -> None:
    method = trained()
    cube = batch_of(method, side=SIDE + 13).cube
    with torch.inference_mode():
        _, before = method.inference_graph().eval()(cube)
        cube[:, :, 5 + 6, 5 + 7] *= 0.2
        _, after = method.inference_graph().eval()(cube)
    changed = (before != after).any(dim=1).any(dim=0)
    rows, cols = changed.nonzero().unbind(dim=1)
    assert (int(rows.min()), int(rows.max())) == (1, 11)
    assert (int(cols.min()), int(cols.max())) == (2, 12)


def test_rows_and_columns_keep_their_order() -> None:
    """A bright pixel moves what lies within the halo round it, and nothing else."""
    method = trained().double()
    cube = batch_of(method, side=20).cube[:1].double()[..., :17]  # 20 rows, 17 columns
    with torch.inference_mode():
        before = method.network(cube)
        cube[:, :, 8, 12] *= 3
        after = method.network(cube)
    assert before.shape == (1, CLASSES, 10, 7)
    changed = (before != after).any(dim=1)[0]  # (row, col)
    rows, cols = changed.nonzero().unbind(dim=1)
    assert (int(rows.min()), int(rows.max())) == (0, 8)  # 8 - 10 .. 8
    assert (int(cols.min()), int(cols.max())) == (2, 6)  # 12 - 10 .. 12
    assert not torch.equal(method.network(cube.mT), after.mT)


def test_retention_is_attention_along_rows_then_columns() -> None:
    torch.manual_seed(0)
    layer = Retention().double()
    with torch.no_grad():
        layer.queries_keys_values.weight.mul_(3)
    features = torch.randn(1, 32, 7, 9, dtype=torch.float64)
    q, k, v = layer.queries_keys_values(features)[0].chunk(3)

    def attend(head: int, at: tuple[int, int], along: int, values: Tensor) -> Tensor:
        part = slice(8 * head, 8 * head + 8)
        places = [
            (at[0] + o * (along == 0), at[1] + o * (along == 1)) for o in range(-3, 4)
        ]
        scores = torch.stack(
            [
                q[part, at[0], at[1]] @ k[part, r, c] / math.sqrt(8)
                + abs(o) * math.log(1 - 2 ** (-2 - head))
                for o, (r, c) in zip(range(-3, 4), places, strict=True)
            ]
        )
        spectra = torch.stack([values[part, r, c] for r, c in places])
        return torch.softmax(scores, 0) @ spectra

    expected = torch.zeros(32, 1, 3, dtype=torch.float64)
    along_rows = torch.zeros(32, 7, 9, dtype=torch.float64)
    for head in range(4):
        part = slice(8 * head, 8 * head + 8)
        for col in range(3, 6):
            for row in range(7):
                along_rows[part, row, col] = attend(head, (row, col), 1, v)
            expected[part, 0, col - 3] = attend(head, (3, col), 0, along_rows)
    local = layer.local(v[None])[0, :, 2:-2, 2:-2]
    assert (layer(features) - layer.mix((expected + local)[None])).abs().max() < 1e-6


def test_norm_and_scores_are_one_convolution_in_evaluation() -> None:
    torch.manual_seed(0)
    layer = NormedScores(5, 3).double()
    features = torch.randn(4, 5, 6, 7, dtype=torch.float64) * 3 + 2
    layer.norm.weight.data.uniform_(0.5, 2)
    layer.norm.bias.data.uniform_(-1, 1)
    for _ in range(3):  # statistics other than 0 and 1
        layer(features)
    found = layer.eval()(features)
    expected = layer.layer(layer.norm(features))
    assert (found - expected).abs().max() < 1e-12


def test_gradients_are_finite_at_exact_reconstruction_and_for_zeros() -> None:
    spectra = 100 * torch.rand(2, BANDS, 3, 3)  # so bright that the cosine rounds to 1
    spectra[0, :, 1, 1] = 0
    reconstruction = spectra.clone().requires_grad_()
    loss = spectral_angles(spectra, reconstruction).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    assert reconstruction.grad is not None
    assert reconstruction.grad.isfinite().all()
    opposite = spectral_angles(spectra, -spectra.clone().requires_grad_())
    assert opposite.isfinite().all()


def test_gradients_are_finite_for_a_pixel_of_zeros() -> None:
    method = build().train()
    batch = batch_of(method)
    batch.cube[0] = 0
    (loss,) = method.losses(batch)
    loss.backward()  # type: ignore[no-untyped-call]
    for parameter in method.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


def test_spectral_angle_is_the_mean_angle() -> None:
    spectra = torch.tensor([[1.0, 0.0], [3.0, 4.0], [1.0, 1.0]])[..., None, None]
    others = torch.tensor([[0.0, 2.0], [6.0, 8.0], [1.0, 0.0]])[..., None, None]
    expected = (math.pi / 2 + 0 + math.pi / 4) / 3
    # Equal spectra give the angle of the clamp, 1.4e-3, instead of zero.
    mean = float(spectral_angles(spectra, others).mean())
    assert mean == pytest.approx(expected, abs=2e-3)


def test_regularisation_against_its_formulas() -> None:
    abundances = torch.zeros(1, 2, 3, 2)
    abundances[0, 0] = torch.tensor([[1.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    abundances[0, 1] = 1 - abundances[0, 0]
    # Four row steps, two of them sqrt(2) long; three column steps, one of them.
    assert float(roughness(abundances)) == pytest.approx((4 / 4 + 2 / 3) / 2)

    mixture = torch.tensor([[3.0, 0.0], [4.0, 2.0]])[None, ..., None]
    sizes = relative_sizes(mixture / 5, mixture)
    assert sizes.flatten().tolist() == pytest.approx([0.2, 0.2], rel=1e-4)

    method = varied()
    assert method.variability is not None
    variation = method.variability(F.softplus(method.theta), sample=False)
    normal = torch.distributions.Normal(
        variation.mean, torch.exp(variation.log_variance / 2)
    )
    exact = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0, 1))
    torch.testing.assert_close(divergence(variation), exact.sum(dim=1).mean())


@pytest.mark.parametrize(
    ("options", "gone"),
    [
        ({"variability": False}, "variability"),
        ({"nonlinear_decoder": False}, "nonlinear"),
        ({"cosine": False}, "network.cosine"),
    ],
)
def test_a_part_can_be_left_out(options: dict[str, object], gone: str) -> None:
    assert any(n.startswith(gone) for n, _ in build().named_parameters())
    method = trained(options)
    assert not any(n.startswith(gone) for n, _ in method.named_parameters())
    assert method.endmembers().shape == (CLASSES, BANDS)
    assert method.network(batch_of(method).cube).isfinite().all()


def test_anchor_mixes_the_own_pixels_of_labelled_outputs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[Tensor] = []

    def mix(spectra: Tensor, classes: Tensor, count: int) -> Mixtures:
        given.extend([spectra, classes])
        return mixtures(spectra, classes, count)

    monkeypatch.setattr(s2vnet, "mixtures", mix)
    method = build().train()
    batch = batch_of(method)
    batch.classes[:, 0] = batch.classes[:, 1, 1] = IGNORED
    (loss,) = method.losses(batch)
    assert loss.isfinite()
    spectra, classes = given
    assert torch.equal(spectra, batch.cube[:, :, 6, 5])  # of output (1, 0)
    assert torch.equal(classes, batch.classes[:, 1, 0])


def test_a_batch_without_labels_has_no_mixtures() -> None:
    method = build({"anchor_weight": 1.0}).train()
    batch = batch_of(method)
    batch.classes[:] = IGNORED
    (loss,) = method.losses(batch)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.isfinite()


@pytest.mark.parametrize(
    "weight",
    [
        "anchor_weight",
        "brightness_weight",
        "kl_weight",
        "nonlinear_weight",
        "tv_weight",
    ],
)
def test_weights_scale_their_terms(weight: str) -> None:
    values = []
    for number in (0.0, 1.0, 3.0):
        method = build({weight: number}).train()
        with torch.no_grad():
            method.get_parameter("nonlinear.layers.2.bias").fill_(1)  # zero at first
        torch.manual_seed(0)
        (loss,) = method.losses(batch_of(method))
        values.append(float(loss.detach()))
    once, thrice = values[1] - values[0], values[2] - values[0]
    assert once > 1e-4
    assert thrice == pytest.approx(3 * once, rel=1e-2)


@pytest.mark.parametrize(
    "options",
    [{"anchor_weight": -1}, {"kl_weight": "much"}, {"cosine": 2}, {"gate": "none"}],
)
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match="options"):
        build(options)


def test_values_without_a_positive_one_are_learnt_all_the_same() -> None:
    problem = build().problem._replace(
        top=torch.tensor(-1.0), class_means=-torch.rand(CLASSES, BANDS)
    )
    method = methods.build("s2vnet", problem, {}).train()
    cube = -torch.rand(4, BANDS, SIDE, SIDE)
    (loss,) = method.losses(Batch(cube, torch.arange(4)[:, None, None]))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())
