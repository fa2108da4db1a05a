import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hsi_runtime.errors import RecipeError
from hsi_train import methods
from hsi_train.layers import parameter_count
from hsi_train.method import IGNORED, Batch, Problem
from hsi_train.methods import s2former
from hsi_train.methods.s2former import Method, distillation, linear_head, pretraining
from hsi_train.methods.s2former.distillation import Distillation
from hsi_train.methods.s2former.network import (
    FEATURES,
    Adapter,
    Block,
    Exchange,
    Head,
    NeighbourhoodAttention,
    resampling,
)
from hsi_train.methods.s2former.pretraining import frequency_loss

BANDS = 9


def build(
    bands: int = BANDS, classes: int = 6, count: int = 5, **options: Any
) -> Method:
    generator = torch.Generator().manual_seed(bands)
    problem = Problem(
        band_mean=torch.rand(bands, generator=generator, dtype=torch.float64) + 1,
        band_std=torch.rand(bands, generator=generator, dtype=torch.float64) + 0.5,
        class_counts=torch.full((classes,), count),
        class_means=torch.zeros(classes, bands),
        top=torch.tensor(1.0),
    )
    torch.manual_seed(0)
    method = methods.build("s2former", problem, options)
    assert isinstance(method, Method)
    return method


def batch(method: Method, outputs: int = 1) -> Batch:
    torch.manual_seed(1)
    side = 12 + outputs
    classes = torch.arange(8)[:, None, None].expand(8, outputs, outputs) % 6
    return Batch(torch.randn(8, BANDS, side, side) + 1.5, classes.contiguous())


def test_parameter_counts() -> None:
    network = build(bands=204).network
    adapter = sum(b.numel() for b in network.adapter.buffers())
    assert parameter_count(network.encoder) == 210_188
    assert adapter == 26_240
    assert parameter_count(network) + adapter == 239_890
    assert parameter_count(network.adapter) == 0


def test_parameter_counts_of_a_block() -> None:
    block = Block()
    assert parameter_count(block.look) == 20_804
    assert parameter_count(block.exchange) == 24_896
    forward = parameter_count(block.forward_a) + parameter_count(block.forward_e)
    assert forward == 20_768
    norms = [m for m in block.modules() if isinstance(m, torch.nn.LayerNorm)]
    assert sum(map(parameter_count, norms)) == 512
    assert {m.eps for m in norms} == {1e-5}


@pytest.mark.parametrize("bands", [1, 2, 7, 102, 128, 204, 426])
def test_resampling_averages_bands(bands: int) -> None:
    weights = resampling(bands)
    assert weights.shape == (128, bands)
    torch.testing.assert_close(weights.sum(1), torch.ones(128, dtype=torch.float64))
    assert weights.min() >= 0
    # Every band counts alike over all pseudo-bands.
    share = torch.full((bands,), 128 / bands, dtype=torch.float64)
    torch.testing.assert_close(weights.sum(0), share)


def test_resampling_by_hand() -> None:
    assert torch.equal(resampling(128), torch.eye(128, dtype=torch.float64))
    up, down = resampling(64), resampling(256)
    assert up[0, 0] == up[1, 0] == up[2, 1] == 1
    assert down[0, :3].tolist() == [0.5, 0.5, 0]
    # 128 intervals of 3/128 bands: the 43rd covers the end of a band and the next.
    mixed = resampling(3)[42]
    torch.testing.assert_close(
        mixed, torch.tensor([2 / 3, 1 / 3, 0], dtype=torch.float64)
    )


@pytest.mark.parametrize("bands", [1, 7, 204])
def test_adapter_standardises_and_resamples(bands: int) -> None:
    generator = torch.Generator().manual_seed(bands)
    mean = torch.rand(bands, generator=generator, dtype=torch.float64) * 3000
    std = torch.rand(bands, generator=generator, dtype=torch.float64) * 500 + 300
    cube = torch.randn(2, bands, 4, 3, generator=generator, dtype=torch.float64)
    stored = cube * std[:, None, None] + mean[:, None, None]
    expected = torch.einsum("pb,nbhw->nphw", resampling(bands), cube)
    found = Adapter(mean, std)(stored.float())
    assert (found - expected).abs().max() < 1e-5


def test_neighbourhood_attention_equals_a_loop() -> None:
    torch.manual_seed(0)
    layer = NeighbourhoodAttention().double()
    torch.nn.init.normal_(layer.position)
    a = torch.randn(2, 7, 6, 64, dtype=torch.float64)
    with torch.inference_mode():
        found = layer(a)
        assert found.shape == (2, 3, 2, 64)
        for n, row, col in np.ndindex(2, 3, 2):
            near = a[n, row : row + 5, col : col + 5].reshape(25, 64)
            keys, values = layer.key(near), layer.value(near)
            queries = layer.query(a[n, row + 2, col + 2])
            parts = []
            for head in range(4):
                query = queries[32 * head : 32 * head + 32]
                logits = torch.stack([query @ key for key in keys]) / math.sqrt(32)
                shares = torch.softmax(logits + layer.position[head], 0)
                parts.append(sum(s * v for s, v in zip(shares, values, strict=True)))
            expected = layer.out(torch.cat(parts))
            torch.testing.assert_close(found[n, row, col], expected)


def test_exchange_equals_two_attentions_over_seventeen_keys() -> None:
    torch.manual_seed(0)
    layer = Exchange().double()
    a = torch.randn(64, dtype=torch.float64)
    e = torch.randn(16, 32, dtype=torch.float64)
    with torch.inference_mode():
        to_a, to_e = layer(a, e)
        keys = torch.cat([layer.key_e(e), layer.key_a(a)[None]])
        values = torch.cat([layer.value_e(e), layer.value_a(a)[None]])

        def attend(queries: Tensor) -> Tensor:
            return torch.softmax(queries @ keys.T / math.sqrt(32), -1) @ values

        spectral = layer.out_e(attend(layer.query_e(e)))
        spatial = layer.out_a(attend(layer.query_a(a).reshape(4, 32)).flatten())
    torch.testing.assert_close(to_e, spectral)
    torch.testing.assert_close(to_a, spatial)


def test_folded_head_equals_the_plain_one() -> None:
    torch.manual_seed(0)
    head = Head(5, dropout=0.0)
    features = torch.randn(40, FEATURES) * 3 + 2
    head.measure(features)
    plain, folded = head.train()(features), head.eval()(features)
    assert (plain - folded).abs().max() < 1e-5


def test_measured_features_are_standardised() -> None:
    torch.manual_seed(0)
    head = Head(5, dropout=0.0)
    features = torch.randn(50, FEATURES) * torch.rand(FEATURES) + 3
    features[:, 7] = 4.0  # one that never varies
    head.measure(features)
    power = head.standardise(features).square().mean(0)
    assert torch.isfinite(power).all()
    varies = torch.arange(FEATURES) != 7
    torch.testing.assert_close(power[varies], torch.ones(FEATURES - 1))


def test_both_branches_weigh_alike_from_scratch() -> None:
    gain = Head(5, dropout=0.0).gain
    assert float(gain[64:].square().sum()) == pytest.approx(288)
    assert float(gain[:64].square().sum()) == pytest.approx(288)


def test_hidden_spectra_reach_no_output() -> None:
    method = build()
    torch.manual_seed(2)
    masked = torch.rand(2, 15, 16) < 0.7
    spectra = torch.randn(2, 128, 15, 16)
    other = torch.where(masked[:, None], torch.randn_like(spectra) * 9, spectra)
    encode = method.pretraining.encode
    with torch.inference_mode():
        for one, two in zip(
            encode(method.encoder, spectra, masked),
            encode(method.encoder, other, masked),
            strict=True,
        ):
            assert (one - two).abs().max() == 0
        seen = method.encoder(spectra)[0] - method.encoder(other)[0]
    assert seen.abs().max() > 0.1, "without the mask they would"


def test_pretraining_learns_only_from_the_wanted_pixels() -> None:
    """With one weight the loss is the error on hidden pixels, computed by hand."""
    method = build(spectral_weight=0.0, frequency_weight=0.0, visible_weight=0.0)
    spectra = torch.randn(2, 128, 18, 18) * 2
    torch.manual_seed(5)
    masked = torch.rand(2, 18, 18) < 0.3
    torch.manual_seed(5)
    with torch.inference_mode():
        loss = float(method.pretraining_loss(spectra))
        clipped = spectra.clamp(-5, 5)
        a, e = method.pretraining.encode(method.encoder, clipped, masked)
        found = method.pretraining.decoder_a(a) + torch.cat(
            [method.pretraining.decoder_e(e[..., k, :]) for k in range(16)], dim=-1
        )
        errors = []
        for n, row, col in np.argwhere(masked.numpy()[:, 6:12, 6:12]):
            true = clipped[n, :, row + 6, col + 6]
            errors.append(float((found[n, row, col] - true).square().mean()))
    assert loss == pytest.approx(np.mean(errors), rel=1e-4)


def test_spectral_term_is_the_error_of_visible_pixels() -> None:
    spectra = torch.randn(2, 128, 18, 18)
    torch.manual_seed(5)
    masked = torch.rand(2, 18, 18) < 0.3
    method = build(spectral_weight=2.0, frequency_weight=0.0)
    head = method.pretraining.spectral_head
    assert head is not None
    losses = []
    with torch.inference_mode():
        for scale in (1.0, 0.0):  # without weights, the head says zero
            for parameter in head.parameters():
                parameter.mul_(scale)
            torch.manual_seed(5)
            losses.append(float(method.pretraining_loss(spectra)))
            e = method.pretraining.encode(method.encoder, spectra, masked)[1]
            target = spectra.clamp(-5, 5).permute(0, 2, 3, 1)
            near, known = pretraining.hidden_neighbours(target, masked, 6)
            error = (head(e).flatten(-2) - near).square().mean(-1)
            visible = ~masked[:, 6:12, 6:12] & known
            losses[-1] -= 2 * float(error[visible].mean())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_mean_of_hidden_neighbours() -> None:
    torch.manual_seed(0)
    target = torch.randn(1, 15, 15, 128)
    masked = torch.rand(1, 15, 15) < 0.1
    mean, known = pretraining.hidden_neighbours(target, masked, 6)
    assert mean.shape == (1, 3, 3, 128)
    assert known.any()
    assert not known.all()
    for row, col in np.ndindex(3, 3):
        around = (0, slice(row + 4, row + 9), slice(col + 4, col + 9))
        hidden = target[around][masked[around]]
        assert bool(known[0, row, col]) == bool(len(hidden))
        if len(hidden):
            torch.testing.assert_close(mean[0, row, col], hidden.mean(0))


@pytest.mark.parametrize("weight", ["spectral", "visible", "frequency"])
def test_every_term_of_pretraining_counts(weight: str) -> None:
    spectra = torch.randn(2, 128, 20, 20)

    def loss(value: float) -> float:
        terms = ("spectral_weight", "visible_weight", "frequency_weight")
        options: dict[str, Any] = dict.fromkeys(terms, 0.0)
        method = build(**options | {f"{weight}_weight": value})
        method.load_state_dict(build(spectral_weight=1.0).state_dict(), strict=False)
        torch.manual_seed(3)
        return float(method.pretraining_loss(spectra).detach())

    none, one, two = loss(0.0), loss(1.0), loss(2.0)
    assert one > none
    assert two - none == pytest.approx(2 * (one - none), rel=1e-3)


@pytest.mark.parametrize("side", [1, 2, 5, 12])
def test_frequency_loss_is_zero_for_equal_cubes(side: int) -> None:
    torch.manual_seed(0)
    cube = torch.randn(2, side, side, 128)
    assert frequency_loss(cube, cube) == 0
    assert torch.isfinite(frequency_loss(cube, cube.roll(3, -1) * 2))


def test_frequency_loss_by_the_full_transform() -> None:
    torch.manual_seed(0)
    found, true = (torch.randn(1, 6, 5, 128, dtype=torch.float64) for _ in range(2))
    rows, cols = np.fft.fftfreq(6)[:, None], np.fft.fftfreq(5)
    high = np.hypot(rows, cols) >= 0.25
    gaps = [
        np.abs(np.fft.fft2(x.numpy()[0], axes=(0, 1), norm="ortho"))
        for x in (found, true)
    ]
    space = np.abs(gaps[0] - gaps[1])[high].mean(axis=0).mean()
    gaps = [np.abs(np.fft.fft(x.numpy()[0], norm="ortho")) for x in (found, true)]
    bands = np.abs(np.fft.fftfreq(128)) >= 0.125
    spectrum = np.abs(gaps[0] - gaps[1])[..., bands].mean()
    assert float(frequency_loss(found, true)) == pytest.approx(space + spectrum, 1e-5)


def test_frequency_loss_ignores_what_is_smooth() -> None:
    torch.manual_seed(0)
    cube = torch.randn(1, 12, 12, 128)
    slope = torch.cos(torch.arange(12) * 2 * math.pi / 12)[:, None, None]
    wave = torch.cos(torch.arange(128) * 2 * math.pi / 64)
    assert frequency_loss(cube + 5 * slope + 5 * wave, cube) < 1e-4
    assert frequency_loss(cube + 5 * (torch.arange(12) % 2)[:, None, None], cube) > 0.01


def test_signal_left_at_the_anchors() -> None:
    signal = Distillation(build().network).signal
    assert len(signal) == 200
    found = [round(float(signal[t]), 3) for t in distillation.TIMES]
    assert found == [0.316, 0.596, 0.827, 0.977]


def test_denoising_teaches_the_denoiser_only() -> None:
    daft = Distillation(build().network)
    student = torch.randn(6, FEATURES, requires_grad=True)
    daft.denoising_loss(student * 1).backward()  # type: ignore[no-untyped-call]
    assert student.grad is None
    assert all(p.grad is not None for p in daft.denoiser.parameters())


def test_trajectories_teach_the_student_only() -> None:
    daft = Distillation(build().network)
    for index in range(2):
        student, teacher = (
            torch.randn(6, FEATURES, requires_grad=True) for _ in range(2)
        )
        loss = daft.trajectory_losses(student, teacher)[index]
        loss.backward()  # type: ignore[no-untyped-call]
        assert student.grad is not None
        assert student.grad.abs().max() > 0
        assert teacher.grad is None
        assert all(p.grad is None for p in daft.denoiser.parameters())


def test_equal_features_have_equal_trajectories() -> None:
    daft = Distillation(build().network)
    z = torch.randn(6, FEATURES)
    path, steps = daft.trajectory_losses(z, z.clone())
    assert path.abs() < 1e-6
    assert steps == 0


def test_daft_moves_student_and_denoiser_and_leaves_the_teacher() -> None:
    method = build(daft=True).train()
    assert method.daft is not None
    before = {k: v.clone() for k, v in method.daft.teacher.state_dict().items()}
    method.progress = 1.0
    (loss,) = method.losses(batch(method, outputs=2))
    loss.backward()  # type: ignore[no-untyped-call]
    for part in (method.network, method.daft.denoiser):
        for name, parameter in part.named_parameters():
            assert parameter.grad is not None, name
    after = method.daft.teacher.state_dict()
    assert all(torch.equal(v, after[k]) for k, v in before.items())


def test_agreement_with_the_teacher_ramps_up() -> None:
    method = build(daft=True).eval()
    assert method.daft is not None
    torch.nn.init.normal_(method.daft.teacher.head.linear.weight)
    losses = []
    for progress in (0.0, 0.15, 0.3, 0.9):
        method.progress = progress
        torch.manual_seed(4)
        (loss,) = method.losses(batch(method))
        losses.append(float(loss.detach()))
    assert losses[0] < losses[1] < losses[2]
    assert losses[2] == pytest.approx(losses[3])


def test_unlabelled_windows_teach_nothing_with_daft() -> None:
    method = build(daft=True).train()
    cube, classes, _ = batch(method)
    (loss,) = method.losses(Batch(cube, torch.full_like(classes, IGNORED)))
    assert loss == 0


@pytest.mark.parametrize("momentum", [1.0, 0.75])
def test_teacher_follows_by_its_momentum(momentum: float) -> None:
    method = build(daft=True, teacher_momentum=momentum).train()
    assert method.daft is not None
    teacher = method.daft.teacher.encoder.embed_a.weight
    before = teacher.clone()
    student = method.network.encoder.embed_a.weight
    with torch.no_grad():
        student.add_(1)
    list(method.losses(batch(method)))
    torch.testing.assert_close(teacher, before + (1 - momentum))


@pytest.mark.parametrize("draw", range(8))
def test_another_view_is_turned_back(
    draw: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A map that keeps places gives the same features whatever the view."""
    cube = torch.randn(2, 3, 4, 4)
    seen = []

    def features(turned: Tensor) -> Tensor:
        seen.append(turned)
        return turned.permute(0, 2, 3, 1)

    monkeypatch.setattr(torch, "randint", lambda *_: torch.tensor(draw))
    back = distillation.another_view(features, cube)
    assert torch.equal(back, cube.permute(0, 2, 3, 1))
    assert torch.equal(seen[0], cube) == (draw == 0)


def test_daft_needs_an_encoder_and_few_labels() -> None:
    for pretrained, count in ((False, 5), (True, 500)):
        method = build(daft=True, count=count)
        method.pretrained = pretrained
        with pytest.raises(RecipeError, match=r"options\.daft.*--pretrain-scene"):
            method.fit_defaults()


def test_daft_trains_where_the_fitted_head_is_enough_without_it() -> None:
    plain, daft = build(), build(daft=True)
    plain.pretrained = daft.pretrained = True
    assert not plain.fit_defaults().trains
    assert daft.fit_defaults().trains


def test_few_labels_tune_the_encoder_gently() -> None:
    rates = {}
    for pretrained, count in ((True, 5), (True, 500), (False, 5)):
        method = build(count=count)
        method.pretrained = pretrained
        encoder, head = method.parameter_groups(1e-3)
        rates[pretrained, count] = encoder["lr"] / head["lr"]
        assert head["lr"] == 1e-3
        moved = sum(p.numel() for g in (encoder, head) for p in g["params"])
        assert moved == parameter_count(method.network)
    assert rates.pop((True, 5)) == pytest.approx(0.1)
    assert set(rates.values()) == {1}


def test_denoiser_learns_at_the_rate_of_the_head() -> None:
    method = build(daft=True)
    method.pretrained = True
    assert method.daft is not None
    fast = {id(p) for p in method.parameter_groups(1e-3)[1]["params"]}
    assert {id(p) for p in method.daft.denoiser.parameters()} <= fast


def test_many_labels_need_no_probe() -> None:
    method = build(count=500)
    method.pretrained = True
    before = method.network.head.linear.weight.clone()
    method.prepare(Known())
    assert torch.equal(method.network.head.linear.weight, before)


def test_training_only_parts_are_named() -> None:
    names = build(daft=True).training_only()
    for part in (
        *("mask_vector", "decoder_a", "decoder_e", "spectral_head"),
        *("teacher", "denoiser"),
    ):
        assert any(part in name for name in names), part
    assert not any(name.startswith("network.") for name in names)


def test_scratch_prepares_nothing() -> None:
    method = build()
    before = {k: v.clone() for k, v in method.state_dict().items()}
    method.prepare(None)  # type: ignore[arg-type]
    after = method.state_dict()
    assert all(torch.equal(v, after[k]) for k, v in before.items())


class Known:
    """Windows whose class shows in the mean of their values."""

    def training_pixels(self) -> list[Any]:
        return [(0, k // 10, k % 10) for k in range(30)]

    def batch(self, places: list[Any], outputs: int) -> Batch:
        assert outputs == 1
        classes = torch.tensor([(10 * row + col) % 6 for _, row, col in places])
        generator = torch.Generator().manual_seed(0)
        cube = torch.randn(len(places), BANDS, 13, 13, generator=generator)
        return Batch(cube + classes[:, None, None, None], classes[:, None, None])

    def unlabelled(self, outputs: int, *others: object) -> Iterator[tuple[Any, Any]]:
        yield from ()


class Surrounded(Known):
    """More pixels than labels, of twice the mean and thrice the deviation."""

    def unlabelled(self, outputs: int, *others: object) -> Iterator[tuple[Any, Any]]:
        generator = np.random.default_rng(0)
        known = np.ones((outputs, outputs), bool)
        known[:, :2] = False
        for _ in range(2):
            cube = generator.normal(2, 3, (BANDS, outputs + 12, outputs + 12))
            cube[:, 6:-6, 6:-6][:, ~known] = 1e4
            yield cube.astype(np.float32), known


def test_statistics_are_those_of_the_unlabelled_pixels() -> None:
    method = build()
    method.pretrained = True
    method.prepare(Surrounded())
    mean, std = np.full(BANDS, 2.0), np.full(BANDS, 3.0)
    expected = Adapter(torch.from_numpy(mean), torch.from_numpy(std))
    adapter = method.network.adapter
    torch.testing.assert_close(adapter.bias, expected.bias, atol=0.1, rtol=0)
    torch.testing.assert_close(adapter.weight, expected.weight, atol=0.01, rtol=0)


def test_the_probe_is_fitted_to_quiet_features(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Tensor] = {}

    def quietening(steps: Tensor) -> Tensor:
        seen["steps"] = steps
        return 2 * torch.eye(FEATURES, dtype=steps.dtype)

    def fit(features: Tensor, classes: Tensor, places: Any) -> Any:
        seen["features"] = features
        return linear_head.LinearHead(torch.ones(6, FEATURES), torch.zeros(6), 0.1)

    monkeypatch.setattr(linear_head, "quietening", quietening)
    monkeypatch.setattr(linear_head, "fit", fit)
    method = build()
    method.pretrained = True
    method.prepare(Surrounded())
    cube, _, _ = Known().batch(Known().training_pixels(), 1)
    head = method.network.head
    with torch.inference_mode():
        standard = head.standardise(method.network.eval().features(cube)[:, 0, 0])
    torch.testing.assert_close(seen["features"], 2 * standard, atol=1e-4, rtol=1e-4)
    assert torch.equal(head.linear.weight, 2 * torch.ones(6, FEATURES))
    torch.testing.assert_close(seen["steps"], seen["steps"].T)
    # In noise neighbours differ by twice the variance.
    assert float(seen["steps"].diagonal().mean()) == pytest.approx(2, rel=0.1)


def test_neighbours_are_known_both() -> None:
    known = torch.tensor([[True, True, False], [True, False, False]])
    assert s2former.neighbours_known(known, 0).tolist() == [[True, False, False]]
    assert s2former.neighbours_known(known, 1).tolist() == [
        *([True, False], [False, False]),
    ]


@pytest.mark.parametrize("daft", [False, True])
def test_probe_is_fitted_before_few_labels_tune(
    daft: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s2former, "DENOISER_WARM_UP", 3)
    method = build(daft=daft)
    method.pretrained = True
    encoder = method.encoder.state_dict()["embed_a.weight"].clone()
    method.prepare(Known())
    cube, classes, _ = Known().batch(Known().training_pixels(), 1)
    with torch.inference_mode():
        features = method.network.eval().features(cube)[:, 0, 0]
        found = method.network(cube).argmax(1)
    assert (found == classes).float().mean() > 0.9
    standard = method.network.head.standardise(features)
    assert standard.mean(0).abs().max() < 1e-3
    assert torch.equal(method.encoder.state_dict()["embed_a.weight"], encoder)
    if method.daft is not None:
        teacher = method.daft.teacher.state_dict()
        student = method.network.state_dict()
        assert all(torch.equal(v, teacher[k]) for k, v in student.items())
        assert method.daft.denoiser.time.weight.grad is not None


def test_cross_entropy_is_the_mean_over_labelled_outputs() -> None:
    method = build()
    scores = torch.randn(2, 6, 3, 3)
    classes = torch.randint(0, 6, (2, 3, 3))
    classes[0, 0] = IGNORED
    expected = F.cross_entropy(scores, classes, ignore_index=IGNORED)
    batch = Batch(torch.empty(0), classes)
    torch.testing.assert_close(method.cross_entropy(scores, batch), expected)
    linear = torch.randn(2, 6, 3, 3)
    both = F.cross_entropy(scores + linear, classes, ignore_index=IGNORED)
    batch = batch._replace(linear=linear)
    torch.testing.assert_close(method.cross_entropy(scores, batch), both)
