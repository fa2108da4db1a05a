"""What all parts of a scene must have in common, and who computes which strips."""

import hashlib
import importlib.metadata
import json
from collections.abc import Collection
from typing import Any

from hsi_runtime.engines.backend import CPU_DEVICES, Backend
from hsi_runtime.engines.nvidia import cuda_memory
from hsi_runtime.errors import EngineError
from hsi_runtime.machine import instruction_set
from hsi_runtime.planning import Job
from hsi_runtime.walk.windows import Plan, completes

# Distributions that compute for a device; the first that is installed does.
LIBRARIES = {
    "cpu": ("onnxruntime", "onnxruntime-gpu"),
    "cuda": ("onnxruntime-gpu", "onnxruntime"),
    "openvino": ("openvino",),
}


def describe_engine(backend: Backend) -> dict[str, Any]:
    """Describe all of an engine that its answers depend on, to the last bit."""
    description: dict[str, Any] = {
        "device": backend.device,
        "precision": backend.precision,
        "library": _library(backend),
    }
    accelerator = getattr(backend, "accelerator", None)
    if accelerator is not None:
        return description | {"accelerator": accelerator}
    if backend.device in CPU_DEVICES:
        return description | {"instruction_set": instruction_set()}
    return description | {"gpu": _gpu()}


def _library(backend: Backend) -> str:
    """Name the library that computes, and its version."""
    built = getattr(backend, "engine", None)
    if built is not None:
        # TensorRT chooses by the clock when it builds: another build rounds otherwise.
        digest = hashlib.sha256(built.path.read_bytes()).hexdigest()
        return f"{built.key.tensorrt}, engine {digest[:16]}"
    for name in LIBRARIES.get(backend.device, ()):
        try:
            return f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown"


def _gpu() -> list[str]:
    try:
        return [*cuda_memory.probe(cuda_memory.load())]
    except EngineError:  # onnxruntime computes without these bindings
        return []


def terms_of(job: Job, engine: dict[str, Any]) -> dict[str, Any]:
    """Collect all that the values of every part depend on.

    A folder that is mounted elsewhere on another machine is the same scene, so paths do
    not count.
    """
    plan = job.dependencies()
    plan["scene"] = {
        name: {key: value for key, value in file.items() if key != "path"}
        for name, file in plan["scene"].items()
    }
    del plan["device"]
    terms: dict[str, Any] = json.loads(json.dumps(plan | {"engine": engine}))
    return terms


def digest_of(terms: dict[str, Any]) -> str:
    """Return a short hash of what parts have in common; each piece carries it."""
    text = json.dumps(terms, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def strips_of(plan: Plan, part: tuple[int, int]) -> list[int]:
    """Return the strips that a part computes: a run of them, alike long for all parts.

    Args:
        plan: The walk.
        part: I, from 0, of N.
    """
    index, count = part
    useful = [n for n, s in enumerate(plan.strips) if s.outputs[0] < s.outputs[1]]
    first, stop = (len(useful) * edge // count for edge in (index, index + 1))
    return useful[first:stop]


def pieces_of(plan: Plan, strips: Collection[int] | None = None) -> list[int]:
    """Return the numbers of the pieces of some strips, or of all, that have outputs."""
    rows = [
        row
        for first, stop in plan.passes
        for row in range(len(plan.strips))
        for _ in range(first, stop)
    ]
    return [
        number
        for number, (row, piece) in enumerate(zip(rows, plan.pieces(), strict=True))
        if completes(*piece) and (strips is None or row in strips)
    ]
