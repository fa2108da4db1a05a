from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from hsi_runtime.model.array import Array
from hsi_runtime.model.model_file import (
    UNSIGNED,
    Bands,
    ClassEntry,
    ModelDocument,
    Provenance,
    SelfTest,
    Values,
)

CLASSES = (("grass", "#00aa00"), ("wet soil", "#804000"), ("Öl", "#0000ff"))


@pytest.fixture(scope="session")
def document() -> ModelDocument:
    """Describe a model of 4 bands, 3 classes and a receptive field of 5 pixels."""
    random = np.random.default_rng(5)
    return ModelDocument(
        schema_version=1,
        method="test",
        receptive_field=5,
        classes=[
            ClassEntry(code=code, name=name, color=color)
            for code, (name, color) in zip((2, 3, 7), CLASSES, strict=True)
        ],
        bands=Bands(
            source_count=4,
            used=[0, 1, 2, 3],
            wavelengths_nm=[450.0, 550.0, 650.0, 850.0],
            fwhm_nm=[10.0] * 4,
        ),
        values=Values(
            quantity="reflectance",
            dtype="uint16",
            scale=[1e-4] * 4,
            offset=[0.0] * 4,
            fill=[1000.0, 2000.0, 3000.0, 4000.0],
        ),
        reject_below=None,
        outputs=["probabilities"],
        endmembers=None,
        precision="fp32",
        parameters=303,
        macs_per_pixel=300.0,
        working_bytes=100.0,
        provenance=fixed_provenance(1),
        self_test=SelfTest(
            cube=Array.pack(random.integers(1, 9000, (4, 7, 7)).astype(np.uint16)),
            probabilities=Array.pack(np.zeros((3, 3, 3), dtype=np.float32)),
            tolerance=1e-4,
        ),
        checksum=UNSIGNED,
    )


def with_receptive_field(document: ModelDocument, side: int) -> ModelDocument:
    """Return a document of another receptive field, with a sample that fits it."""
    cube = Array.pack(np.ones((len(document.bands.used), side, side), np.uint16))
    answer = Array.pack(np.zeros((len(document.classes), 1, 1), np.float32))
    sample = replace(document.self_test, cube=cube, probabilities=answer)
    return replace(document, receptive_field=side, self_test=sample)


def fixed_provenance(pixels: int) -> Provenance:
    return Provenance(
        version="0",
        seed=0,
        recipe="",
        data_sha256={},
        counts={"train": pixels},
        overall_accuracy=1.0,
        average_accuracy=1.0,
        kappa=1.0,
    )


@pytest.fixture(scope="session")
def write_model(document: ModelDocument) -> Callable[..., Path]:
    """Write a signed model file without torch: one convolution and a softmax.

    A ``metadata`` text stands in for the document; ``bias`` favours the first class.
    A model that unmixes gives the softmax of the negative scores as abundances.
    """
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("torch")  # hsi_export.package imports it
    from onnx import TensorProto, helper, numpy_helper

    from hsi_export import package

    written = document

    def write(
        path: Path,
        document: ModelDocument = written,
        metadata: str | None = None,
        bias: float = 0.0,
        bfloat16: bool = False,
    ) -> Path:
        bands, side = len(document.bands.used), document.receptive_field
        classes = len(document.classes)
        weights = conv_weights(classes, bands, side)
        offset = np.zeros(classes, dtype=np.float32)
        offset[0] = bias
        shape: list[str | int] = ["batch", bands, "height", "width"]
        outputs: list[str | int] = ["batch", classes, "rows", "cols"]
        nodes = [
            helper.make_node("Conv", ["cube", "weights", "bias"], ["scores"]),
            helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
        ]
        if document.unmixes:
            nodes += [
                helper.make_node("Neg", ["scores"], ["negative"]),
                helper.make_node("Softmax", ["negative"], ["abundances"], axis=1),
            ]
        graph = helper.make_graph(
            nodes,
            "test",
            [helper.make_tensor_value_info("cube", TensorProto.FLOAT, shape)],
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, outputs)
                for name in document.outputs
            ],
            [
                numpy_helper.from_array(weights, "weights"),
                numpy_helper.from_array(offset, "bias"),
            ],
        )
        opset = [helper.make_opsetid("", 20)]
        proto = helper.make_model(graph, opset_imports=opset, ir_version=10)
        onnx.checker.check_model(proto, full_check=True)
        if metadata is None:
            sample = document.self_test.cube.unpack()
            answer = conv_softmax(sample, weights, offset)
            test = replace(document.self_test, probabilities=Array.pack(answer))
            contract = replace(document, self_test=test)
            data = package.assemble(proto, contract, 1.0, bfloat16)
        else:
            helper.set_model_props(proto, {"hsi": metadata})
            data = proto.SerializeToString(deterministic=True)
        path.write_bytes(data)
        return path

    return write


def with_classes(
    document: ModelDocument, classes: Sequence[ClassEntry]
) -> ModelDocument:
    """Give a document other classes, and a sample of as many."""
    sample = document.self_test
    _, rows, cols = sample.probabilities.shape
    answer = np.zeros((len(classes), rows, cols), dtype=np.float32)
    self_test = replace(sample, probabilities=Array.pack(answer))
    return replace(document, classes=[*classes], self_test=self_test)


def conv_weights(classes: int, bands: int, side: int) -> NDArray[np.float32]:
    weights = np.random.default_rng(1).normal(0, 1, (classes, bands, side, side))
    weights[:, :, side // 2, side // 2] *= 8
    weights -= weights.mean(axis=(1, 2, 3), keepdims=True)
    return (weights / 6000).astype(np.float32)


def conv_softmax(
    cube: NDArray[Any], weights: NDArray[np.float32], bias: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Evaluate the model of `write_model` with numpy: ``(class, row, col)``."""
    side = weights.shape[-1]
    patches = sliding_window_view(cube.astype(np.float64), (side, side), axis=(1, 2))
    scores = np.einsum("brcij,kbij->krc", patches, weights) + bias[:, None, None]
    exp = np.exp(scores - scores.max(axis=0))
    probabilities: NDArray[np.float32] = (exp / exp.sum(axis=0)).astype(np.float32)
    return probabilities


@pytest.fixture(scope="session")
def conv_oracle() -> Callable[..., NDArray[np.float32]]:
    """Evaluate `write_model`'s model on a whole scene, mirrored by numpy."""

    def evaluate(
        cube: NDArray[Any], halo: int = 2, classes: int = 3, bias: float = 0.0
    ) -> NDArray[np.float32]:
        padded = np.pad(cube, ((0, 0), (halo, halo), (halo, halo)), mode="reflect")
        offset = np.zeros(classes, dtype=np.float32)
        offset[0] = bias
        weights = conv_weights(classes, len(cube), 2 * halo + 1)
        return conv_softmax(padded, weights, offset)

    return evaluate
