import copy
import math
from collections.abc import Iterator

import pytest
import torch
from linear_fit import with_linear
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from hsi_runtime.errors import RecipeError
from hsi_train import methods
from hsi_train.fitting.optimisation import MAX_GRADIENT_NORM
from hsi_train.fitting.pretrain import Pretrainable
from hsi_train.layers import parameter_count
from hsi_train.method import IGNORED, BaseMethod, Batch, Problem
from hsi_train.methods import names

BANDS, CLASSES = 8, 4

every_method = pytest.mark.parametrize("name", names())
# lda is fitted in closed form: it has nothing to train.
every_network = pytest.mark.parametrize("name", [n for n in names() if n != "lda"])


def problem(bands: int = BANDS, classes: int = CLASSES) -> Problem:
    generator = torch.Generator().manual_seed(bands)
    mean = torch.rand(bands, generator=generator, dtype=torch.float64) * 1000 + 500
    std = torch.rand(bands, generator=generator, dtype=torch.float64) * 200 + 50
    noise = torch.randn(classes, bands, generator=generator, dtype=torch.float64)
    return Problem(
        band_mean=mean,
        band_std=std,
        class_counts=torch.arange(1, classes + 1) * 10,
        class_means=mean + std * noise,
        top=(mean + 3 * std).max(),
    )


def cubes(method: BaseMethod, *shape: int, seed: int = 0) -> Tensor:
    """Random cube in stored units, shape (batch, band, row, col)."""
    generator = torch.Generator().manual_seed(seed)
    data = problem(shape[1])
    values = torch.randn(shape, generator=generator)
    std, mean = (v.float()[:, None, None] for v in (data.band_std, data.band_mean))
    return values * std + mean


def learnable_batch(method: BaseMethod, outputs: int = 2, seed: int = 1) -> Batch:
    """Windows whose class shows in the mean of their first bands."""
    side = outputs + method.receptive_field - 1
    cube = cubes(method, 8, BANDS, side, side, seed=seed)
    classes = torch.arange(8) % CLASSES
    cube[:, :4] += 300 * classes[:, None, None, None]
    return Batch(cube, classes[:, None, None].expand(8, outputs, outputs).contiguous())


def train(method: BaseMethod, batch: Batch, steps: int) -> list[float]:
    """Train as the trainer does, without its schedule; return the first losses."""
    method.train()
    groups = method.parameter_groups(method.defaults.learning_rate)
    optimizer = torch.optim.AdamW(groups)
    losses = []
    for _ in range(steps):
        for number, loss in enumerate(method.losses(batch)):
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(method.parameters(), MAX_GRADIENT_NORM)
            optimizer.step()
            if number == 0:
                losses.append(float(loss.detach()))
    return losses


def every_loss(method: BaseMethod, batch: Batch) -> Iterator[Tensor]:
    """Those of a training step, and that of pre-training where there is one."""
    yield from method.losses(batch)
    if isinstance(method, Pretrainable):
        adapter = method.adapter(method.problem.band_mean, method.problem.band_std)
        yield method.pretraining_loss(adapter(batch.cube))


_trained: dict[str, BaseMethod] = {}


@pytest.fixture
def trained(name: str) -> BaseMethod:
    """A method after some steps, so that its batch statistics are no longer 0 and 1."""
    if name not in _trained:
        torch.manual_seed(3)
        known = with_linear(problem()) if name == "lda" else problem()
        method = methods.build(name, known, {})
        if name != "lda":
            train(method, learnable_batch(method), 6)
        _trained[name] = method.eval()
    return copy.deepcopy(_trained[name])


@every_method
def test_norms_alone_in_training_are_all_measured(
    name: str, trained: BaseMethod
) -> None:
    """So the trainer measures batch statistics at the end, the rest in evaluation."""
    norms = [m for m in trained.network.modules() if isinstance(m, _BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
    side = trained.receptive_field + 2
    trained.network(cubes(trained, 4, BANDS, side, side))
    assert [norm.num_batches_tracked for norm in norms] == [1] * len(norms)


@every_method
def test_receptive_field_is_odd_and_halo_is_its_half(name: str) -> None:
    kind = methods.method_class(name)
    assert kind.receptive_field % 2 == 1
    assert kind.halo_of() == (kind.receptive_field - 1) // 2


@every_method
@pytest.mark.parametrize("extra", [(0, 0), (0, 5), (1, 0), (6, 16), (19, 2)])
def test_output_is_smaller_by_twice_the_halo(
    name: str, trained: BaseMethod, extra: tuple[int, int]
) -> None:
    r = trained.receptive_field
    cube = cubes(trained, 2, BANDS, r + extra[0], r + extra[1])
    trained.probabilities.temperature.fill_(2.0)
    with torch.inference_mode():
        scores = trained.network(cube)
        outputs = trained.inference_graph().eval()(cube)
    assert scores.shape == (2, CLASSES, 1 + extra[0], 1 + extra[1])
    assert trained.outputs[0] == "probabilities"
    assert len(outputs) == len(trained.outputs)
    for shares in outputs:  # probabilities, abundances
        assert shares.shape[2:] == scores.shape[2:]
        torch.testing.assert_close(shares.sum(1), torch.ones_like(scores[:, 0]))
        assert shares.min() >= 0
    torch.testing.assert_close(outputs[0], torch.softmax(scores / 2, dim=1))


@every_method
def test_folded_graph_is_the_same_function(name: str, trained: BaseMethod) -> None:
    r = trained.receptive_field
    cube = cubes(trained, 2, BANDS, r + 6, r + 17)
    with torch.inference_mode():
        plain = trained.inference_graph().eval()(cube)
        before = {k: v.clone() for k, v in trained.state_dict().items()}
        folded = trained.folded_graph().eval()(cube)
        again = trained.inference_graph().eval()(cube)
    assert len(folded) == len(plain)
    for found, expected, unmoved in zip(folded, plain, again, strict=True):
        assert expected.std() > 1e-3
        assert (found - expected).abs().max() < 1e-5
        assert torch.equal(expected, unmoved), "folding changed the method"
    after = trained.state_dict()
    assert all(torch.equal(v, after[k]) for k, v in before.items())


@every_network
@pytest.mark.parametrize("gate", [0.0, 0.5])
def test_linear_path_is_added_to_the_gated_scores(name: str, gate: float) -> None:
    torch.manual_seed(5)
    field = methods.method_class(name).receptive_field
    method = methods.build(name, with_linear(problem(), field), {}).eval()
    assert method.path is not None
    method.path.gate.fill_(gate)
    r = method.receptive_field
    cube = cubes(method, 2, BANDS, r + 3, r + 9)
    with torch.inference_mode():
        scores = method.path(cube) + gate * method.network(cube)
        torch.testing.assert_close(method.classifier(cube), scores)
        expected = torch.softmax(scores, dim=1)
        for graph in (method.inference_graph(), method.folded_graph()):
            found = graph.eval()(cube)[0]
            assert (found - expected).abs().max() < 1e-5
    assert not [n for n, _ in method.named_parameters() if n.startswith("path.")]


@every_network
def test_where_the_path_sees_an_unjudged_class_the_network_has_no_say(
    name: str,
) -> None:
    torch.manual_seed(5)
    field = methods.method_class(name).receptive_field
    method = methods.build(name, with_linear(problem(), field), {}).eval()
    path = method.path
    assert path is not None
    path.gate.fill_(0.5)
    r = method.receptive_field
    cube = cubes(method, 2, BANDS, r + 3, r + 9)
    with torch.inference_mode():
        linear, before = path(cube), method.classifier(cube)
        class_ = int(linear.argmax(dim=1).mode().values.flatten()[0])
        others = [k for k in range(linear.shape[1]) if k != class_]
        path.unjudged = (class_,)
        lead = linear[:, others].amax(dim=1, keepdim=True) - linear[:, [class_]]
        assert (lead <= 0).any()
        assert (lead > 0).any()
        scores = method.classifier(cube)
        # By degrees: where it were a step, another rounding gave another map.
        heard = lead.clamp(0, 1)
        torch.testing.assert_close(scores, linear + heard * (before - linear))
        again = methods.build(name, with_linear(problem(), field), {}).eval()
        again.load_state_dict(method.state_dict())
        for graph in (method.inference_graph(), again.folded_graph()):
            found = graph.eval()(cube)[method.outputs.index("probabilities")]
            assert (found - torch.softmax(scores, dim=1)).abs().max() < 1e-5
        path.unjudged = tuple(range(linear.shape[1]))
        torch.testing.assert_close(method.classifier(cube), linear)


@every_network
def test_rare_classes_count_for_more_in_map_and_graph_alike(name: str) -> None:
    torch.manual_seed(5)
    known = problem()
    counts = torch.arange(1, len(known.class_counts) + 1) ** 3
    method = methods.build(name, known._replace(class_counts=counts), {}).eval()
    r = method.receptive_field
    cube = cubes(method, 2, BANDS, r + 3, r + 9)
    with torch.inference_mode():
        before = method.classifier(cube)
        method.probabilities.balance.fill_(0.5)
        scores = method.classifier(cube)
        shares = counts / counts.sum()
        expected = before - 0.5 * shares.log()[:, None, None]
        torch.testing.assert_close(scores, expected)
        for graph in (method.inference_graph(), method.folded_graph()):
            found = graph.eval()(cube)[method.outputs.index("probabilities")]
            assert (found - torch.softmax(scores, dim=1)).abs().max() < 1e-5


@every_network
def test_a_network_that_starts_from_the_path_says_nothing(name: str) -> None:
    field = methods.method_class(name).receptive_field
    method = methods.build(name, with_linear(problem(), field), {}).eval()
    method.start_from_path()
    r = method.receptive_field
    cube = cubes(method, 1, BANDS, r + 1, r)
    with torch.inference_mode():
        if method.last_layer is not None:
            assert not method.network(cube).any()


@every_network
def test_it_has_parameters(name: str, trained: BaseMethod) -> None:
    assert 0 < parameter_count(trained.network) <= parameter_count(trained)
    assert all(p.requires_grad for p in trained.parameters())


@every_method
@pytest.mark.parametrize("extra", [(0, 0), (6, 16), (30, 11)])
def test_window_equals_patch_by_patch(
    name: str, trained: BaseMethod, extra: tuple[int, int]
) -> None:
    r = trained.receptive_field
    network = trained.network.double().eval()
    cube = cubes(trained, 1, BANDS, r + extra[0], r + extra[1], seed=7).double()
    patches = cube.unfold(2, r, 1).unfold(3, r, 1)  # (1, band, row, col, r, r)
    rows, cols = patches.shape[2:4]
    patches = patches[0].permute(1, 2, 0, 3, 4).reshape(rows * cols, BANDS, r, r)
    with torch.inference_mode():
        dense = network(cube)[0]  # (class, row, col)
        single = torch.cat([network(part) for part in torch.split(patches, 64)])
    expected = single[:, :, 0, 0].T.reshape(CLASSES, rows, cols)
    assert (dense - expected).abs().max() < 1e-12 * max(1, float(dense.abs().max()))
    assert dense.std() > 1e-3


@every_method
def test_result_does_not_depend_on_the_batch(name: str, trained: BaseMethod) -> None:
    r = trained.receptive_field
    network = trained.network.double()
    cube = cubes(trained, 5, BANDS, r + 3, r + 2).double()
    with torch.inference_mode():
        together = network(cube)
        alone = torch.cat([network(one[None]) for one in cube])
        turned = network(cube.flip(0)).flip(0)
    assert (together - alone).abs().max() < 1e-12
    assert (together - turned).abs().max() < 1e-12


@every_method
def test_evaluation_is_deterministic(name: str, trained: BaseMethod) -> None:
    r = trained.receptive_field
    cube = cubes(trained, 2, BANDS, r + 4, r + 4)
    with torch.inference_mode():
        torch.manual_seed(1)
        first = trained.network(cube)
        torch.manual_seed(2)
        assert torch.equal(first, trained.network(cube))
    before = {k: v.clone() for k, v in trained.state_dict().items()}
    assert all(torch.equal(v, before[k]) for k, v in trained.state_dict().items())


@every_method
def test_one_output_sees_exactly_its_receptive_field(
    name: str, trained: BaseMethod
) -> None:
    r = trained.receptive_field
    network = trained.network.double()
    seen = torch.zeros(BANDS, r + 8, r + 8, dtype=torch.bool)
    for seed in range(3):  # one input may switch a few rectifiers off
        cube = cubes(trained, 4, BANDS, r + 8, r + 8, seed=seed).double()
        cube.requires_grad_()
        network(cube)[:, :, 4, 4].square().sum().backward()
        assert cube.grad is not None
        seen |= (cube.grad != 0).any(dim=0)
    expected = torch.zeros(r + 8, r + 8, dtype=torch.bool)
    expected[4 : 4 + r, 4 : 4 + r] = True
    assert torch.equal(seen.any(dim=0), expected)
    assert seen.any(dim=2).any(dim=1).all(), "a band has no influence"


@every_network
def test_training_lowers_the_loss(name: str) -> None:
    torch.manual_seed(0)
    method = methods.build(name, problem(), {})
    losses = train(method, learnable_batch(method), 10)
    assert all(map(math.isfinite, losses))
    assert min(losses[-2:]) < 0.7 * losses[0]


@every_network
def test_every_parameter_is_trained(name: str) -> None:
    torch.manual_seed(0)
    method = methods.build(name, problem(), {}).train()
    untouched = {n for n, _ in method.named_parameters()}
    for _ in range(2):  # what starts at zero passes no gradient on at first
        for loss in every_loss(method, learnable_batch(method)):
            method.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            untouched -= {
                n
                for n, p in method.named_parameters()
                if p.grad is not None and p.grad.any()
            }
            with torch.no_grad():
                for p in method.parameters():
                    if p.grad is not None:
                        p.sub_(1e-3 * p.grad)
    assert untouched == set()


@every_network
def test_ignored_labels_give_zero_loss_and_finite_gradients(name: str) -> None:
    method = methods.build(name, problem(), {}).train()
    batch = learnable_batch(method)
    nothing = Batch(batch.cube, torch.full_like(batch.classes, IGNORED))
    loss = method.loss(nothing)
    assert float(loss.detach()) == 0
    loss.backward()  # type: ignore[no-untyped-call]
    for parameter in method.network.parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all()


@every_method
def test_training_only_names_nothing_of_the_network(
    name: str, trained: BaseMethod
) -> None:
    every = {n for n, _ in trained.named_parameters()}
    of_network = {f"network.{n}" for n, _ in trained.network.named_parameters()}
    extra = trained.training_only()
    assert set(extra) == every - of_network
    assert len(set(extra)) == len(extra)


@every_method
def test_unknown_option_is_refused_by_name(name: str) -> None:
    with pytest.raises(RecipeError, match=r"\[options\] of .*no_such_option"):
        methods.build(name, problem(), {"no_such_option": 1})


@every_network
def test_defaults_are_written_out_and_read_back(name: str) -> None:
    options = methods.all_options(name, {})
    assert options
    assert methods.all_options(name, options) == options


@every_network
def test_state_dict_round_trip(name: str, trained: BaseMethod) -> None:
    torch.manual_seed(11)
    other = methods.build(name, problem(), {}).eval()
    r = trained.receptive_field
    cube = cubes(trained, 1, BANDS, r + 2, r + 2)
    with torch.inference_mode():
        expected = trained.network(cube)
        assert not torch.equal(other.network(cube), expected)
        other.load_state_dict(trained.state_dict())
        assert torch.equal(other.network(cube), expected)


@every_network
def test_normalisation_belongs_to_the_state(name: str, trained: BaseMethod) -> None:
    fresh = Problem(
        band_mean=torch.zeros(BANDS),
        band_std=torch.ones(BANDS),
        class_counts=torch.ones(CLASSES),
        class_means=torch.ones(CLASSES, BANDS),
        top=torch.tensor(1.0),
    )
    other = methods.build(name, fresh, {}).eval()
    other.load_state_dict(trained.state_dict())
    r = trained.receptive_field
    cube = cubes(trained, 1, BANDS, r, r)
    with torch.inference_mode():
        assert torch.equal(other.network(cube), trained.network(cube))


@every_network
@pytest.mark.parametrize("bands", [1, 2, 3, 102, 218])
def test_any_number_of_bands_builds_trains_and_runs(name: str, bands: int) -> None:
    method = methods.build(name, problem(bands, 2), {})
    r = method.receptive_field
    cube = cubes(method, 2, bands, r, r + 1)
    loss = method.train().loss(Batch(cube, torch.tensor([[[0, 1]], [[1, 0]]])))
    loss.backward()  # type: ignore[no-untyped-call]
    assert math.isfinite(float(loss.detach()))
    with torch.inference_mode():
        scores = method.eval().network(cube)
    assert scores.shape == (2, 2, 1, 2)
    assert torch.isfinite(scores).all()


@every_network
def test_class_weighting_keeps_the_scale_of_the_loss(name: str) -> None:
    if "class_weighting" not in methods.all_options(name, {}):
        pytest.skip("the method weighs no classes")
    counts = problem().class_counts.double()
    for power in (0.0, 0.5, 1.0):
        method = methods.build(name, problem(), {"class_weighting": power})
        weights = method.class_weights.double()
        assert float((weights * counts).sum() / counts.sum()) == pytest.approx(1)
        by_count = weights * counts**power
        torch.testing.assert_close(
            by_count, by_count[:1].expand(CLASSES), rtol=1e-6, atol=0
        )


def test_unknown_method_lists_those_there_are() -> None:
    with pytest.raises(RecipeError, match=r"no method 'mf3cnet'.*mf2cnet"):
        methods.build("mf3cnet", problem(), {})
