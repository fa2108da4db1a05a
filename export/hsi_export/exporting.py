"""The whole way from a run to a verified model file, on one screen."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hsi_export import cost, package, parity, tracing
from hsi_export.parity import Limits, Parity
from hsi_runtime import files
from hsi_runtime.engines.backend import DEVICES
from hsi_runtime.engines.nvidia import tensorrt_gpu
from hsi_runtime.engines.opening import open_backend
from hsi_runtime.engines.openvino_cpu import OpenvinoCpu
from hsi_runtime.engines.self_test import self_test
from hsi_runtime.errors import (
    DISK_FULL,
    EngineError,
    HsiError,
    ModelFileError,
    OptionError,
    OutputError,
    ResourceError,
    VerificationError,
)
from hsi_runtime.machine import usable_cores
from hsi_runtime.model.model_file import ModelDocument, ModelFile, read_model
from hsi_runtime.output.names import check_outputs
from hsi_runtime.walk.windows import DEFAULT_TILE
from hsi_train.run_folder import checkpoint
from hsi_train.run_folder.checkpoint import Checkpoint

if TYPE_CHECKING:
    from hsi_export.compact import Shared
    from hsi_export.precision import Half

FP32 = Limits(max_abs_difference=1e-4, equal_class_share=0.9999)
FP16 = Limits(max_abs_difference=2e-2, equal_class_share=0.999)
COMPACT = Limits(max_abs_difference=2e-2, equal_class_share=0.999)


class Candidate(NamedTuple):
    """A converted checkpoint before the proof that it answers like torch.

    Attributes:
        trained: The checkpoint.
        proto: The ``onnx.ModelProto``.
        contract: Model document, its checksum still blank.
        limits: Largest accepted differences from torch.
        half: Report of the conversion to half precision; None in float32.
        shared: Projections that layers share; None where none was asked for.
    """

    trained: Checkpoint
    proto: Any
    contract: ModelDocument
    limits: Limits
    half: "Half | None"
    shared: "list[Shared] | None"


def export(
    run: Path,
    output: Path,
    overwrite: bool = False,
    fp16: bool = False,
    tensorrt: bool = False,
    compact: bool = False,
) -> dict[str, Any]:
    """Export a run to a model file, after proving that it answers like torch.

    The file appears under its name only when it has passed.

    Args:
        run: Folder that hsi-train wrote.
        output: The ``.onnx`` file; a STAC item is written beside it.
        overwrite: Replace existing files.
        fp16: Convert to half precision, after an audit of the value ranges.
        tensorrt: Also build the engine of this machine's GPU, into the engine cache.
        compact: Let the layers that read all bands share a projection of them.

    Returns:
        The report that ``hsi-export --json`` prints.

    Raises:
        HsiError: There is no checkpoint, the output is refused, the check failed, or
            there is no GPU for the engine.
    """
    if tensorrt:
        tensorrt_gpu.load()  # a missing GPU is reported before any work
    trained = checkpoint.load(run)
    item = _check_outputs(run, output, overwrite)
    candidate = _convert(trained, fp16, compact)
    limits = candidate.limits
    with _published_together(output, item) as (partial, partial_item):
        model = _write(candidate, partial)
        backend = open_backend(model, "cpu")
        agreement = parity.check(trained.method, backend, trained.sample, limits)
        if fp16 and _passes_in_bfloat16(model, trained):
            model = _write(candidate, partial, bfloat16=True)
        engines = _self_test_engines(model)
        engine = _build_engine(model, trained, limits) if tensorrt else None
        _write_item(model, output, partial_item)
    return _report(candidate, model, output, agreement, engines) | {"engine": engine}


def _check_outputs(run: Path, output: Path, overwrite: bool) -> Path:
    """Refuse outputs that must not be written, and return the path of the STAC item."""
    if not output.name:
        raise OutputError(f"{output} is a folder; -o names a file.")
    item = output.with_suffix(".stac.json")
    source = checkpoint.path_of(run)
    check_outputs([output, item], [source], overwrite)
    return item


def _convert(trained: Checkpoint, fp16: bool, compact: bool) -> Candidate:
    """Trace the network, make it smaller if asked, and describe it."""
    bands = len(trained.description.bands.used)
    proto = tracing.trace(trained.method, bands, folded=not fp16)
    shared = None
    if compact:
        proto, shared = _compacted(proto, trained)
    pixel_cost = cost.measure(proto, trained.method.receptive_field)
    half = _halve(proto, trained) if fp16 else None
    limits = FP16 if fp16 else COMPACT if compact else FP32
    try:
        contract = package.document(
            trained, limits, "fp16" if fp16 else "fp32", pixel_cost
        )
    except ValueError as error:  # it contradicts itself
        raise ModelFileError(
            f"The checkpoint's description is damaged: {error}. Copy the run again."
        ) from error
    return Candidate(
        trained=trained,
        proto=proto if half is None else half.proto,
        contract=contract,
        limits=limits,
        half=half,
        shared=shared,
    )


def _compacted(proto: Any, trained: Checkpoint) -> tuple[Any, "list[Shared]"]:
    """Let layers share a projection of the bands.

    Raises:
        OptionError: There are none for which that would pay.
    """
    from hsi_export import compact

    method = trained.method
    real = parity.windows_of(trained.sample, method.receptive_field)[-1]
    means = method.problem.class_means.numpy()
    mixed = compact.mixtures(means, method.receptive_field + compact.MIXED_OUTPUTS)
    smaller, shared = compact.share_projections(proto, [real, mixed])
    if not shared:
        raise OptionError(
            "no layers of this network read so many bands that a shared projection "
            "would pay. Export it without.",
            "compact",
        )
    return smaller, shared


@contextmanager
def _published_together(output: Path, item: Path) -> Iterator[tuple[Path, Path]]:
    """Give names to write to; both files appear at the end, or neither.

    Raises:
        HsiError: They cannot be written, or what was done meanwhile failed.
    """
    try:
        # The item is inside, so that the model file gets its name last.
        with files.replaced(output) as partial, files.replaced(item) as partial_item:
            yield partial, partial_item
    except HsiError:
        raise  # it says what failed, such as the engine cache
    except OSError as error:
        kind = ResourceError if error.errno in DISK_FULL else OutputError
        reason = error.strerror or error
        raise kind(f"{output} cannot be written: {reason}.") from error


def _write(candidate: Candidate, path: Path, bfloat16: bool = False) -> ModelFile:
    """Write the model file and read it back as the runtime does."""
    resolution_m = candidate.trained.description.resolution_m
    path.write_bytes(
        package.assemble(candidate.proto, candidate.contract, resolution_m, bfloat16)
    )
    return read_model(path)


def _write_item(model: ModelFile, output: Path, path: Path) -> None:
    """Write the STAC item of a model file that will be named ``output``."""
    item = package.stac_item(model.document, output, len(model.onnx), model.sha256)
    path.write_text(json.dumps(item, indent=1) + "\n", encoding="utf-8")


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


def _self_test_engines(model: ModelFile) -> dict[str, float]:
    """Run the stored sample on all engines of this machine but TensorRT.

    TensorRT engines take minutes to build. They are tested when ``tensorrt`` is asked
    for, and by hsi-run whenever it builds one.

    Returns:
        Largest difference in probability, by device.

    Raises:
        VerificationError: An engine does not answer like training.
    """
    differences = {}
    for device in DEVICES:
        if device in ("auto", "tensorrt"):
            continue
        try:
            backend = open_backend(model, device)
        except (EngineError, ResourceError):  # not installed, or a GPU that is full
            continue
        differences[device] = self_test(model, backend).max_abs_difference
    return differences


def _build_engine(
    model: ModelFile, trained: Checkpoint, limits: Limits
) -> dict[str, Any]:
    """Build or find the engine of this machine's GPU, and compare it with torch.

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


def _report(
    candidate: Candidate,
    model: ModelFile,
    output: Path,
    agreement: Parity,
    engines: dict[str, float],
) -> dict[str, Any]:
    """Collect what ``hsi-export --json`` prints."""
    contract, half = candidate.contract, candidate.half
    compared = asdict(agreement)
    for entry, parity_of_class in zip(
        contract.classes, compared["classes"], strict=True
    ):
        parity_of_class |= {"code": entry.code, "name": entry.name}
    report = {
        "output": str(output),
        "precision": contract.precision,
        "opset": tracing.OPSET,
        "bytes": len(model.onnx),
        "sha256": model.sha256,
        "parameters": contract.parameters,
        "parity": compared,
        "engines": engines,
        "dropped": candidate.trained.method.training_only(),
    }
    if candidate.shared is not None:
        report["shared"] = [asdict(one) for one in candidate.shared]
    if half is not None:
        report["kept_fp32"] = half.kept
        report["bfloat16"] = model.proved_in_bfloat16
    return report
