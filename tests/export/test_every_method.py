"""What holds for the export of every method, in every precision, on every engine."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import torch
from described import described
from linear_fit import with_linear
from numpy.typing import NDArray
from once import Once

from hsi_export import cost, package, parity, precision, tracing
from hsi_export.exporting import FP16, FP32
from hsi_runtime.engines.backend import GPU_DEVICES
from hsi_runtime.engines.nvidia import engine_build
from hsi_runtime.engines.opening import open_backend
from hsi_runtime.engines.self_test import self_test
from hsi_runtime.model.model_file import PROBABILITIES, ModelFile, Precision, read_model
from hsi_runtime.walk.windows import DEFAULT_TILE
from hsi_train import methods
from hsi_train.method import Batch, Problem
from hsi_train.methods import names
from hsi_train.run_folder import checkpoint
from hsi_train.run_folder.checkpoint import Checkpoint

BANDS, CLASSES = 200, 4
TEMPERATURE = 1.5  # as if it had been calibrated
MAX_MACS = 2e6  # a pixel: what an edge device can bear at 200 bands

ON_GPU = [pytest.param(device, marks=pytest.mark.gpu) for device in GPU_DEVICES]

KINDS: tuple[Precision, ...] = ("fp32", "fp16")

every_method = pytest.mark.parametrize("name", names())
# lda has no parameters, and stays in float32: its scores are small differences.
every_network = pytest.mark.parametrize("name", [n for n in names() if n != "lda"])


def problem(bands: int) -> Problem:
    generator = torch.Generator().manual_seed(bands)
    mean = torch.rand(bands, generator=generator, dtype=torch.float64) * 1000 + 500
    noise = torch.randn(CLASSES, bands, generator=generator, dtype=torch.float64)
    return Problem(
        band_mean=mean,
        band_std=mean / 5,
        class_counts=torch.full((CLASSES,), 10),
        class_means=mean * (1 + 0.2 * noise),
        top=2 * mean.max(),
    )


def spectra(known: Problem, classes: NDArray[np.int64], seed: int) -> torch.Tensor:
    """Noisy pixels of classes ``(batch, row, col)``: ``(batch, band, row, col)``."""
    generator = torch.Generator().manual_seed(seed)
    means = known.class_means[torch.from_numpy(classes)].movedim(-1, 1)
    noise = torch.randn(means.shape, generator=generator, dtype=torch.float64)
    return (means + noise * known.band_std[:, None, None] / 10).float()


class Exported(NamedTuple):
    """A method that has learnt something, and its files by precision."""

    trained: Checkpoint
    files: dict[str, ModelFile]


_loaded: dict[str, Exported] = {}


@pytest.fixture
def exported(name: str, once: Once) -> Exported:
    if name not in _loaded:
        folder = once(f"every-{name}", lambda folder: export(name, folder))
        files = {str(kind): read_model(folder / f"{kind}.onnx") for kind in KINDS}
        _loaded[name] = Exported(checkpoint.load(folder), files)
    return _loaded[name]


def export(name: str, folder: Path) -> None:
    """Train a method for a few steps and write its checkpoint and model files."""
    torch.manual_seed(0)
    side = methods.method_class(name).receptive_field
    known = with_linear(problem(BANDS), side)
    method = methods.build(name, known, {}).train()
    if method.path is not None:  # as a training leaves it
        method.path.gate.fill_(0.5)
        method.path.unjudged = (1,)
    method.probabilities.balance.fill_(0.25)
    random = np.random.default_rng(0)
    steps = 0 if name == "lda" else 12  # fitted in closed form: nothing to train
    optimizer = torch.optim.AdamW([{"params": list(method.parameters())}], lr=3e-3)
    for step in range(steps):
        drawn = random.permutation(np.arange(8) % CLASSES)[:, None, None]
        drawn = np.tile(drawn, (1, side, side))
        labels = torch.from_numpy(drawn[:, :1, :1].copy())
        batch = Batch(spectra(known, drawn, step), labels)
        for loss in method.losses(batch):
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    fields = np.kron(random.integers(0, CLASSES, (5, 5)), np.ones((8, 8), np.int64))
    sample = spectra(known, fields[None].astype(np.int64), 99)[0].numpy()
    method.probabilities.temperature.fill_(TEMPERATURE)
    described = describe(name)
    checkpoint.save(folder, method.eval(), described, np.rint(sample).astype(np.int16))
    trained = checkpoint.load(folder)
    proto = tracing.trace(trained.method, BANDS)
    price = cost.measure(proto, side)
    plain = tracing.trace(trained.method, BANDS, folded=False)
    half = precision.convert(plain, parity.windows_of(trained.sample, side))
    made = zip(KINDS, (FP32, FP16), (proto, half.proto), strict=True)
    for kind, limits, graph in made:
        contract = package.document(trained, limits, kind, price)
        path = folder / f"{kind}.onnx"
        path.write_bytes(package.assemble(graph, contract, None))


def describe(name: str) -> checkpoint.Description:
    return described(name, {}, bands=BANDS, classes=CLASSES, dtype="int16")


@every_method
@pytest.mark.parametrize("device", ["cpu", "openvino", *ON_GPU])
@pytest.mark.parametrize("kind", ["fp32", "fp16"])
def test_every_engine_answers_like_torch(
    name: str,
    device: str,
    kind: str,
    exported: Exported,
    need_engine: Callable[[str], None],
) -> None:
    need_engine(device)
    file = exported.files[kind]
    backend = open_backend(file, device, 1)
    limits = FP32 if kind == "fp32" else FP16
    # A dozen steps leave more pixels undecided than training does.
    share = limits.equal_class_share if kind == "fp32" else 0.99
    accepted = parity.Limits(limits.max_abs_difference, share)
    found = parity.check(
        exported.trained.method, backend, exported.trained.sample, accepted
    )
    assert found.windows >= 4
    self_test(file, backend)
    cube = parity.windows_of(exported.trained.sample, file.document.receptive_field)[-1]
    answer = backend.predict(cube)[PROBABILITIES]
    assert len(np.unique(answer.argmax(axis=1))) > 1, "it has learnt nothing"


ON_WEBGPU = """
import sys
from pathlib import Path
import numpy as np
from hsi_runtime.engines.opening import open_backend
from hsi_runtime.model.model_file import read_model
backend = open_backend(read_model(Path(sys.argv[1])), "webgpu")
np.savez(sys.argv[3], **backend.predict(np.load(sys.argv[2]), sys.argv[4:]))
"""


@every_method
def test_webgpu_answers_like_the_processor(
    name: str, exported: Exported, software_gpu: dict[str, str], tmp_path: Path
) -> None:
    file = exported.files["fp32"]
    side = file.document.receptive_field + 7
    cube = exported.trained.sample[None, :, :side, :side].astype(np.float32)
    np.save(tmp_path / "cube.npy", cube)
    outputs = list(file.document.outputs)
    subprocess.run(
        [
            *(sys.executable, "-c", ON_WEBGPU, str(file.path)),
            *(str(tmp_path / "cube.npy"), str(tmp_path / "answer.npz"), *outputs),
        ],
        env=software_gpu,
        check=True,
    )
    expected = open_backend(file, "cpu", 1).predict(cube, outputs)
    with np.load(tmp_path / "answer.npz") as answer:
        for output in outputs:
            found = answer[output]
            np.testing.assert_allclose(found, expected[output], rtol=0, atol=1e-5)
        same = answer[PROBABILITIES].argmax(1) == expected[PROBABILITIES].argmax(1)
    assert same.mean() >= 0.9999


def weights(proto: Any) -> int:
    """Count the stored numbers."""
    return sum(int(np.prod(t.dims)) for t in proto.graph.initializer)


@every_method
@pytest.mark.parametrize("kind", ["fp32", "fp16"])
def test_tensorrt_builds_an_engine(name: str, kind: str, exported: Exported) -> None:
    """The product's build, with TensorRT-RTX for TensorRT: it needs no GPU."""
    tensorrt = pytest.importorskip("tensorrt_rtx")
    file = exported.files[kind]
    profile = engine_build.profile_of(file.document, DEFAULT_TILE)
    engine = engine_build.build(tensorrt, file, profile)
    weights = sum(
        t.ByteSize() for t in onnx.load_from_string(file.onnx).graph.initializer
    )
    assert len(engine) > weights / 2


@every_method
def test_exported_probabilities_are_calibrated(name: str, exported: Exported) -> None:
    method = exported.trained.method
    cube = parity.windows_of(exported.trained.sample, method.receptive_field)[-1]
    found = open_backend(exported.files["fp32"], "cpu", 1).predict(cube)[PROBABILITIES]
    with torch.inference_mode():
        scores = method.classifier(torch.from_numpy(cube))
    expected = torch.softmax(scores / TEMPERATURE, dim=1).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.abs(expected - torch.softmax(scores, dim=1).numpy()).max() > 1e-3


@every_network
def test_training_is_left_out(name: str, exported: Exported) -> None:
    proto = onnx.load_from_string(exported.files["fp32"].onnx)
    operators = {node.op_type for node in proto.graph.node}
    foreign = {o for o in operators if "Random" in o or "Dropout" in o or "DFT" in o}
    assert not foreign | (operators & {"BatchNormalization", "If", "Loop", "Scan"})
    method = exported.trained.method
    learnt = sum(p.numel() for p in method.network.parameters())
    of_all = sum(p.numel() for p in method.parameters())
    parts = [method.network, *filter(None, [method.path])]
    constants = sum(b.numel() for part in parts for b in part.buffers()) + 500
    plain = onnx.load_from_string(exported.files["fp16"].onnx)
    assert weights(plain) <= learnt + constants
    # Folding multiplies matrices, and repeats some for every depth.
    graph = method.folded_graph()
    folded = [*graph.parameters(), *graph.buffers()]
    assert weights(proto) <= sum(values.numel() for values in folded) + 500
    assert weights(proto) <= 1.5 * (learnt + constants)
    assert (learnt == of_all) == (method.training_only() == [])


@every_network
def test_half_precision_halves_the_weights(name: str, exported: Exported) -> None:
    def stored(kind: str) -> int:
        proto = onnx.load_from_string(exported.files[kind].onnx)
        return sum(len(t.raw_data) for t in proto.graph.initializer)

    assert stored("fp16") < 0.75 * stored("fp32")


@every_method
def test_a_pixel_costs_little_at_two_hundred_bands(
    name: str, exported: Exported
) -> None:
    least = 1_000 if name == "lda" else 10_000
    for file in exported.files.values():
        assert least < file.document.macs_per_pixel <= MAX_MACS
