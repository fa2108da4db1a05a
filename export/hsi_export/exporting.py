"""The whole way from a run to a verified model file, on one screen."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hsi_export import cost, graph, package, parity
from hsi_export.parity import Limits
from hsi_runtime import files
from hsi_runtime.engines import tensorrt_gpu
from hsi_runtime.engines.backend import DEVICES
from hsi_runtime.engines.opening import open_backend
from hsi_runtime.engines.openvino_cpu import OpenvinoCpu
from hsi_runtime.engines.self_test import self_test
from hsi_runtime.errors import (
    DISK_FULL,
    EngineError,
    OutputError,
    ResourceError,
    VerificationError,
)
from hsi_runtime.machine import usable_cores
from hsi_runtime.model.model_file import ModelFile, Precision, read_model
from hsi_runtime.output.names import check_outputs
from hsi_runtime.walk.windows import DEFAULT_TILE
from hsi_train.run_folder import checkpoint
from hsi_train.run_folder.checkpoint import Checkpoint

if TYPE_CHECKING:
    from hsi_export.precision import Half

FP32 = Limits(max_abs_difference=1e-4, equal_class_share=0.9999)
FP16 = Limits(max_abs_difference=2e-2, equal_class_share=0.999)


def export(
    run: Path,
    output: Path,
    overwrite: bool = False,
    fp16: bool = False,
    tensorrt: bool = False,
) -> dict[str, Any]:
    """Export a run to a model file, after proving that it answers like torch.

    The file appears under its name only when it has passed.

    Args:
        run: Folder that hsi-train wrote.
        output: The ``.onnx`` file; a STAC item is written beside it.
        overwrite: Replace what is there.
        fp16: In half precision, after an audit of its ranges.
        tensorrt: Also build the engine of this machine's GPU, into the engine cache.

    Returns:
        What ``hsi-export --json`` prints.

    Raises:
        HsiError: No checkpoint, output refused, the check failed, or there is no GPU
            for the engine.
    """
    if tensorrt:
        tensorrt_gpu.load()  # without a GPU this is told now, not after the work
    trained = checkpoint.load(run)
    if not output.name:
        raise OutputError(f"{output} is a folder; -o names a file.")
    item = output.with_suffix(".stac.json")
    source = run / checkpoint.FILE_NAME if run.is_dir() else run
    check_outputs([output, item], [source], overwrite)
    bands = len(trained.description.bands.used)
    proto = graph.trace(trained.method, bands, folded=not fp16)
    price = cost.measure(proto, trained.method.receptive_field)
    limits, half = FP32, None
    if fp16:
        half = _halve(proto, trained)
        limits, proto = FP16, half.proto
    precision: Precision = "fp16" if fp16 else "fp32"
    contract = package.document(trained, limits, precision, price)
    data = package.assemble(proto, contract, trained.description.resolution_m)
    try:
        # The item is inside, so that the model file gets its name last.
        with files.replaced(output) as partial, files.replaced(item) as partial_item:
            partial.write_bytes(data)
            model = read_model(partial)
            backend = open_backend(model, "cpu")
            agreement = parity.check(trained.method, backend, trained.sample, limits)
            if fp16 and _passes_in_bfloat16(model, trained):
                data = package.assemble(
                    proto, contract, trained.description.resolution_m, bfloat16=True
                )
                partial.write_bytes(data)
                model = read_model(partial)
            engines = _on_every_engine(model)
            engine = _build_engine(model, trained, limits) if tensorrt else None
            described = package.stac_item(
                model.document, output, len(data), model.sha256
            )
            partial_item.write_text(
                json.dumps(described, indent=1) + "\n", encoding="utf-8"
            )
    except OSError as error:
        kind = ResourceError if error.errno in DISK_FULL else OutputError
        raise kind(f"{output} cannot be written: {error.strerror}.") from error
    compared = asdict(agreement)
    for entry, found in zip(contract.classes, compared["classes"], strict=True):
        found |= {"code": entry.code, "name": entry.name}
    return {
        "output": str(output),
        "precision": contract.precision,
        "opset": graph.OPSET,
        "bytes": len(data),
        "sha256": model.sha256,
        "parameters": contract.parameters,
        "parity": compared,
        "engines": engines,
        "engine": engine,
        "dropped": trained.method.training_only(),
        **(
            {}
            if half is None
            else {"kept_fp32": half.kept, "bfloat16": model.proved_in_bfloat16}
        ),
    }


def _passes_in_bfloat16(model: ModelFile, trained: Checkpoint) -> bool:
    """Compare with torch in bfloat16, by the limits of half precision.

    Where this machine has no engine for it, nothing is proved.
    """
    try:
        engine = OpenvinoCpu(model, usable_cores(), bfloat16=True)
        parity.check(trained.method, engine, trained.sample, FP16)
    except (EngineError, VerificationError):
        return False
    return True


def _on_every_engine(model: ModelFile) -> dict[str, float]:
    """Run the stored sample on all engines of this machine.

    TensorRT, whose engines take minutes to build, is tried where it is asked for; and
    by hsi-run whenever it builds one.

    Returns:
        Largest difference in probability, by device.

    Raises:
        VerificationError: An engine does not answer like training.
    """
    found = {}
    for device in DEVICES:
        if device in ("auto", "tensorrt"):
            continue
        try:
            backend = open_backend(model, device)
        except (EngineError, ResourceError):  # not installed, or a GPU that is full
            continue
        found[device] = self_test(model, backend).max_abs_difference
    return found


def _build_engine(
    model: ModelFile, trained: Checkpoint, limits: Limits
) -> dict[str, Any]:
    """Build, or find, the engine of this machine's GPU, and compare it with torch.

    Raises:
        HsiError: It cannot be built, or does not answer like torch.
    """
    backend = tensorrt_gpu.TensorrtGpu(model, DEFAULT_TILE)
    agreement = parity.check(trained.method, backend, trained.sample, limits)
    entry = backend.engine
    return {
        "path": str(entry.path),
        "built": entry.built,
        "seconds": entry.seconds,
        **asdict(entry.key),
        "parity": asdict(agreement),
    }


def _halve(proto: Any, trained: Checkpoint) -> "Half":
    """Convert a graph to half precision and try it in true half arithmetic."""
    from hsi_export import precision

    side = trained.method.receptive_field
    windows = parity.windows_of(trained.sample, side)
    half = precision.convert(proto, windows)
    few = side - 1 + precision.CHECKED_OUTPUTS
    cube = np.ascontiguousarray(windows[-1][..., :few, :few])
    expected = list(parity.reference(trained.method, cube).values())
    limit = FP16.max_abs_difference
    precision.check_in_half_arithmetic(half, cube, expected, limit)
    return half
