import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hsi_runtime.errors import RecipeError
from hsi_train import changes, methods
from hsi_train.layers import LinearFit, parameter_count
from hsi_train.method import BaseMethod, Batch, Problem
from hsi_train.methods.s2amsnet import Method
from hsi_train.methods.s2amsnet.game import contrast, frozen, inconsistency, squares
from hsi_train.methods.s2amsnet.network import ChannelNorm, Network

BANDS, CLASSES, R = 7, 3, 19
PLAIN = {"generators": False}


def problem(bands: int = BANDS, classes: int = CLASSES) -> Problem:
    return Problem(
        band_mean=torch.linspace(500, 1500, bands, dtype=torch.float64),
        band_std=torch.full((bands,), 200.0, dtype=torch.float64),
        class_counts=torch.full((classes,), 10),
        class_means=torch.ones(classes, bands, dtype=torch.float64),
        top=torch.tensor(2500.0, dtype=torch.float64),
    )


def build(bands: int = BANDS, classes: int = CLASSES, **options: Any) -> Method:
    torch.manual_seed(0)
    game = {"generators": True} | options
    method = methods.build("s2amsnet", problem(bands, classes), game)
    assert isinstance(method, Method)
    return method.train()


def a_batch(outputs: int = 1, size: int = 4, seed: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    side = outputs + R - 1
    cube = 800 + 300 * torch.rand(size, BANDS, side, side, generator=generator)
    classes = torch.randint(0, CLASSES, (size, outputs, outputs), generator=generator)
    return Batch(cube, classes)


def state(module: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in module.state_dict().items()}


def changed(module: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {k for k, v in module.state_dict().items() if not torch.equal(v, before[k])}


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step as the trainer takes it."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def test_parameter_counts() -> None:
    method = build(204, 6)
    assert parameter_count(method.network) == 1_241_020
    # As published, but for the sixth block and the biases that InstanceNorm cancels.
    encoder = build(48).encoder
    assert encoder is not None
    assert parameter_count(encoder) == 135_608 - (2 * 9248) - 8 - 10 * 32


@pytest.mark.parametrize("norm", ["bn", "ln"])
def test_brightness_of_a_pixel_does_not_matter(norm: str) -> None:
    method = build(norm=norm).double()
    with torch.no_grad():
        method.network(a_batch(2).cube.double())
    method.eval()
    cube = a_batch(3).cube.double()
    gain = torch.rand(4, 1, 21, 21, dtype=torch.float64) * 3 + 0.1
    with torch.inference_mode():
        before, after = method.network(cube), method.network(gain * cube)
    assert (before - after).abs().max() < 1e-10
    assert before.std() > 1e-3


def test_layer_norm_takes_the_place_of_batch_norm() -> None:
    modules = list(build(norm="ln").network.modules())
    assert any(isinstance(m, ChannelNorm) for m in modules)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in modules)


def test_a_zero_pixel_is_harmless() -> None:
    method = build()
    cube = a_batch(2).cube
    cube[:, :, 9, 9] = 0
    cube.requires_grad_()
    scores = method.network(cube)
    assert torch.isfinite(scores).all()
    scores.square().sum().backward()
    assert cube.grad is not None
    assert torch.isfinite(cube.grad).all()
    unit = method.network.unit_spectra(cube)
    assert not unit[:, :, 9, 9].any()
    rest = unit.square().mean(dim=1)[:, :9]
    torch.testing.assert_close(rest, torch.ones_like(rest))


@pytest.mark.parametrize("outputs", [1, 3])
def test_each_step_moves_its_own_side_only(outputs: int) -> None:
    method = build()
    optimizer = torch.optim.AdamW(method.parameter_groups(1e-3), weight_decay=0.1)
    for seed in range(2):  # the second round finds gradients and moments of the first
        losses = method.losses(a_batch(outputs, seed=seed))
        before = state(method)
        step(optimizer, next(losses))
        moved = changed(method, before)
        assert moved
        assert all(name.startswith("network.") for name in moved)
        before = state(method)
        step(optimizer, next(losses))
        moved = changed(method, before)
        assert moved
        assert not any(name.startswith("network.") for name in moved)
        assert {name.partition(".")[0] for name in moved} == {"generators", "encoder"}
        assert next(losses, None) is None
    assert all(p.requires_grad for p in method.parameters())


def test_running_statistics_are_learned_in_the_min_step() -> None:
    method = build()
    before = state(method)
    losses = method.losses(a_batch())
    next(losses)
    moved = changed(method, before)
    assert any(name.endswith("running_var") for name in moved)
    before = state(method)
    next(losses)
    assert changed(method, before) == set()


def test_the_max_step_sees_the_function_of_the_min_step() -> None:
    method = build()
    cube = a_batch(2).cube
    expected = method.network(cube)
    with frozen(method.network):
        found = method.network(cube)
    assert torch.equal(found, expected)
    assert not found.requires_grad


def test_losses_are_those_of_the_parts() -> None:
    method = build(kl_weight=0.3, mi_weight=2.0)
    batch = a_batch(2)
    x = method.network.unit_spectra(batch.cube)
    copies = [x * f for f in torch.rand(4, BANDS, 1, 1) + 0.5]
    scores = method.network(torch.cat([x, *copies])).chunk(5)
    inconsistent = inconsistency(scores[1:], batch.classes)
    plain = sum(F.cross_entropy(s, batch.classes) for s in scores)
    found = method.min_loss(x, copies, batch.classes)
    torch.testing.assert_close(found, plain + 0.3 * inconsistent)

    scores = method.network(torch.cat(copies)).chunk(4)
    expected = -0.3 * inconsistency(scores, batch.classes)
    assert method.encoder is not None
    views = [method.encoder(squares(y, R)) for y in (x, *copies[:2])]
    for own, *others in zip(*views, strict=True):
        for other in others:
            expected = expected + 2.0 * contrast(other, own) / 5
    found = method.max_loss(x, copies, batch.classes)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ce_on_source": False},
        {"generators": False},
        {"generators": False, "spectral_randomisation": True},
    ],
)
def test_what_is_shown_is_what_a_min_step_sees(options: dict[str, Any]) -> None:
    method, batch = build(**options), a_batch(2)
    seen: list[Tensor] = []
    method.network.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    torch.manual_seed(3)
    next(method.losses(batch))
    torch.manual_seed(3)
    torch.testing.assert_close(method.shown(batch.cube), seen[0])


def test_the_source_may_be_left_out_of_the_cross_entropy() -> None:
    method = build(ce_on_source=False, kl_weight=0.0)
    batch = a_batch(2)
    x = method.network.unit_spectra(batch.cube)
    copies = [x * f for f in torch.rand(4, BANDS, 1, 1) + 0.5]
    scores = method.network(torch.cat(copies)).chunk(4)
    expected = sum(F.cross_entropy(s, batch.classes) for s in scores)
    torch.testing.assert_close(
        method.min_loss(x, copies, batch.classes), torch.as_tensor(expected)
    )


class PlainlyTrained(BaseMethod):
    receptive_field = R

    def __init__(self) -> None:
        super().__init__(problem())
        self.network = Network(problem(), nn.BatchNorm2d)


def test_without_generators_it_is_plain_training_bit_for_bit() -> None:
    torch.manual_seed(0)
    plain = PlainlyTrained().train()
    method = build(generators=False)
    assert method.training_only() == []
    for trained in (plain, method):
        optimizer = torch.optim.AdamW(trained.parameter_groups(1e-3))
        for seed in range(3):
            for loss in trained.losses(a_batch(2, seed=seed)):
                step(optimizer, loss)
    assert changed(method, state(plain)) == set()


def test_training_is_reproducible_and_depends_on_the_seed() -> None:
    def trained(seed: int) -> dict[str, Tensor]:
        method = build()
        torch.manual_seed(seed)
        optimizer = torch.optim.AdamW(method.parameter_groups(1e-3))
        for loss in method.losses(a_batch()):
            step(optimizer, loss)
        return state(method)

    first = trained(1)
    assert all(torch.equal(v, first[k]) for k, v in trained(1).items())
    assert not all(torch.equal(v, first[k]) for k, v in trained(2).items())


def test_generators_learn_at_a_tenth_of_the_rate() -> None:
    method = build()
    fast, slow = method.parameter_groups(1e-2)
    assert (fast["lr"], slow["lr"]) == (1e-2, pytest.approx(1e-3))
    every = [*fast["params"], *slow["params"]]
    assert {id(p) for p in every} == {id(p) for p in method.parameters()}
    assert {id(p) for p in slow["params"]} == {
        id(p) for p in method.generators.parameters()
    }
    assert len(build(generators=False).parameter_groups(1e-2)) == 1


def test_what_is_dropped() -> None:
    method = build()
    of_network = {f"network.{n}" for n, _ in method.network.named_parameters()}
    dropped = method.training_only()
    assert {n.partition(".")[0] for n in dropped} == {"generators", "encoder"}
    assert not of_network & set(dropped)


@pytest.mark.parametrize(
    ("options", "losses", "parts"),
    [
        ({}, 2, {"generators", "encoder"}),
        ({"mi_weight": 0.0}, 2, {"generators"}),
        ({"max_step": False}, 1, {"generators"}),
        (PLAIN, 1, set()),
        (PLAIN | {"spectral_randomisation": True}, 1, set()),
        (PLAIN | {"norm": "ln"}, 1, set()),
    ],
)
def test_options(options: dict[str, Any], losses: int, parts: set[str]) -> None:
    method = build(**options)
    assert {n.partition(".")[0] for n in method.training_only()} == parts
    values = [float(loss.detach()) for loss in method.losses(a_batch())]
    assert len(values) == losses
    assert all(map(math.isfinite, values))


def test_changed_copies_are_learned_beside_the_source() -> None:
    method = build(**PLAIN, spectral_randomisation=True)
    batch = a_batch(2)
    torch.manual_seed(3)
    found = method.with_changed(batch)
    assert torch.equal(found.cube[:4], batch.cube)
    torch.manual_seed(3)
    assert torch.equal(found.cube[4:], changes.draw(batch.cube, 1000.0))
    assert torch.equal(found.classes, torch.cat([batch.classes, batch.classes]))


def with_linear(**options: Any) -> Method:
    torch.manual_seed(0)
    bands, shape = torch.randn(2, 5, CLASSES, BANDS) / 100
    centre, bias = torch.zeros(BANDS), torch.zeros(CLASSES)
    linear = LinearFit(bands=bands, shape=shape, centre=centre, bias=bias)
    given = problem()._replace(linear=linear)
    method = methods.build("s2amsnet", given, PLAIN | options)
    assert isinstance(method, Method)
    method.start_from_path()
    return method.eval()


def test_a_classifier_that_learns_copies_learns_by_itself() -> None:
    apart = with_linear(spectral_randomisation=True)
    assert apart.path is not None
    assert apart.path.apart
    assert float(apart.network.fc2.weight.detach().abs().sum()) > 0
    with torch.autocast("cpu", torch.bfloat16):
        changed = apart.with_changed(a_batch(2))
    assert changed.linear is None
    assert changed.cube.dtype == torch.float32
    plain = with_linear()
    assert plain.path is not None
    assert not plain.path.apart
    assert float(plain.network.fc2.weight.detach().abs().sum()) == 0


def test_the_gate_goes_from_the_path_to_the_classifier() -> None:
    method = with_linear(spectral_randomisation=True)
    path, cube = method.path, a_batch(2).cube
    assert path is not None
    with torch.inference_mode():
        linear, own = path(cube), method.network(cube)
        for gate in (0.0, 0.25, 1.0):
            path.gate.fill_(gate)
            joined = method.with_path(method.network)(cube)
            torch.testing.assert_close(joined, (1 - gate) * linear + gate * own)
        assert method.with_path(method.network) is method.network


@pytest.mark.parametrize(
    ("options", "bears"),
    [
        ({}, None),
        ({"spectral_randomisation": True}, 1),
        ({"spectral_randomisation": True, "randomisation_strength": 0.5}, 0.5),
        ({"spectral_randomisation": False, "randomisation_strength": 0.5}, 0),
        ({"generators": True}, 0),
    ],
)
def test_whether_changes_are_borne(
    options: dict[str, Any], bears: float | None
) -> None:
    parsed = methods.check_options("s2amsnet", options)
    assert Method.bears_changes(parsed) == bears


def test_randomisation_and_generators_exclude_each_other() -> None:
    with pytest.raises(RecipeError, match="generators = false"):
        build(spectral_randomisation=True)


@pytest.mark.parametrize(
    "options", [{"norm": "gn"}, {"kl_weight": -1.0}, {"mi_weight": "much"}]
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="options"):
        build(**options)


def test_style_changes_from_call_to_call_and_from_sample_to_sample() -> None:
    (generator, _) = build().generators
    one = a_batch().cube[:1] / 1000
    x = one.expand(3, -1, -1, -1)
    first = generator(x)
    assert first.shape == x.shape
    assert (first[0] - first[1]).abs().max() > 1e-3
    assert (first - generator(x)).abs().max() > 1e-3


def test_mixed_precision_keeps_norms_and_contrast_in_fp32() -> None:
    method = build()
    batch = a_batch(2)
    with torch.autocast("cpu", torch.bfloat16):
        assert method.network.unit_spectra(batch.cube).dtype == torch.float32
        a, b = torch.randn(6, 40), torch.randn(6, 40)
        found = contrast(a.bfloat16(), b.bfloat16())
        losses = list(method.losses(batch))
    rows = F.normalize(torch.cat([a, b]).bfloat16().double(), dim=1)
    logits = rows @ rows.T / 0.07
    logits.fill_diagonal_(-math.inf)
    expected = F.cross_entropy(logits, torch.arange(12).roll(6))
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    for loss in losses:
        loss.backward()  # type: ignore[no-untyped-call]
        assert math.isfinite(float(loss.detach()))
    assert all(
        p.grad is not None and torch.isfinite(p.grad).all() for p in method.parameters()
    )
