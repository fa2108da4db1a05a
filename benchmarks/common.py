"""What the benchmarks share: a model of any size, the machine, tables."""

import json
import os
import platform
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from code_digest import Code
from numpy.typing import NDArray

from hsi_export.exporting import export
from hsi_runtime.machine import usable_cores
from hsi_runtime.model.model_file import (
    Bands,
    ClassEntry,
    ModelFile,
    Provenance,
    Values,
    read_model,
)
from hsi_train import method, methods
from hsi_train.layers import LINEAR_SIDES, LinearFit
from hsi_train.measuring import metrics
from hsi_train.run_folder import checkpoint
from hsi_train.simulate import band_centres

RESULTS = Path(__file__).parent / "results"
SHARES = ("overall_accuracy", "average_accuracy", "kappa")


def make_method(name: str, bands: int, classes: int) -> method.BaseMethod:
    """Build a method with seeded random weights: speed does not depend on them.

    The linear path is in it, as in every method by default.
    """
    torch.manual_seed(0)
    problem = method.Problem(
        band_mean=torch.full((bands,), 2000.0),
        band_std=torch.full((bands,), 1000.0),
        class_counts=torch.full((classes,), 100),
        class_means=torch.rand(classes, bands) * 2000 + 1000,
        top=torch.tensor(4000.0),
    )
    problem = problem._replace(linear=_linear_fit(bands, classes))
    return methods.build(name, problem, {}).eval()


def _linear_fit(bands: int, classes: int) -> LinearFit:
    """Use four views, as many as are added where labels are not few."""
    weights = torch.zeros(2, len(LINEAR_SIDES), classes, bands)
    weights[:, [0, -1]] = torch.randn(2, 2, classes, bands)
    return LinearFit(
        bands=weights[0],
        shape=weights[1],
        centre=torch.zeros(bands),
        bias=torch.zeros(classes),
    )


def make_model(
    folder: Path, name: str, bands: int, classes: int, first_nm: float, last_nm: float
) -> ModelFile:
    """Export a method with random weights."""
    built = make_method(name, bands, classes)
    wavelengths = list(band_centres(bands, first_nm, last_nm))
    rng = np.random.default_rng(0)
    side = built.receptive_field + 40
    described = checkpoint.Description(
        method=name,
        options=methods.all_options(name, {}),
        classes=[
            ClassEntry(code=k + 1, name=f"class {k + 1}", color=f"#{k:02x}80c0")
            for k in range(classes)
        ],
        bands=Bands(
            source_count=bands,
            used=list(range(bands)),
            wavelengths_nm=wavelengths,
            fwhm_nm=None,
        ),
        values=Values(
            quantity="reflectance",
            dtype="uint16",
            scale=[1e-4] * bands,
            offset=[0.0] * bands,
            fill=[2000.0] * bands,
        ),
        resolution_m=1.0,
        provenance=Provenance(
            version="benchmark",
            seed=0,
            recipe="",
            data_sha256={},
            counts={"train": 0, "validation": 0, "test": 0},
            overall_accuracy=0.0,
            average_accuracy=0.0,
            kappa=0.0,
        ),
    )
    sample = rng.integers(0, 4000, (bands, side, side)).astype(np.uint16)
    checkpoint.save(folder, built, described, sample)
    output = folder / "model.onnx"
    export(folder, output, overwrite=True)
    return read_model(output)


def code_of(checkout: Path, *more: str) -> dict[str, str]:
    """Return the environment in which a process imports the code of a checkout.

    Args:
        checkout: Its root.
        more: Folders of it to import from besides those of the packages.
    """
    folders = ("train", "export", "runtime", *more)
    paths = os.pathsep.join(str(checkout / folder) for folder in folders)
    return os.environ | {"PYTHONPATH": paths}


def children_seconds() -> float:
    """Return the processor time of all processes that were started and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def machine() -> dict[str, Any]:
    """Describe where a figure was measured."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text().splitlines()
        names = [line.split(":")[1].strip() for line in lines if "model name" in line]
        model = names[0] if names else model
    return {
        "cpu": model,
        "cores": usable_cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }


def machine_text() -> str:
    """Describe the machine in a sentence, for a table of a benchmark's own."""
    here = machine()
    return (
        f"Machine: {here['cpu']}, {here['cores']} cores, "
        f"{here['memory_bytes'] / 1e9:.0f} GB, Python {here['python']}; "
        f"load {here['load']:.1f} at the end."
    )


def session(model: bytes, threads: int = 1) -> Any:
    """Start onnxruntime as hsi-run does."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model, options, providers=["CPUExecutionProvider"]
    )


def stored_values(bands: int, side: int) -> NDArray[np.float32]:
    """Return a window of random values, shape ``(1, band, row, col)``."""
    shape = (1, bands, side, side)
    return 4000 * np.random.default_rng(0).random(shape, dtype=np.float32)


def in_turns(
    calls: Mapping[str, Callable[[], Any]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Make all calls, round by round; one more round warms up, and does not count.

    Returns:
        Seconds of each call in each round; what each returned last.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    answers = {}
    for number in range(rounds + 1):
        for name, call in calls.items():
            started = clock()
            answers[name] = call()
            if number:
                seconds[name].append(clock() - started)
    return seconds, answers


def shares_of(matrix: metrics.Confusion) -> dict[str, float]:
    """Sum up a confusion matrix: `SHARES`, and what a constant answer would reach."""
    return {
        "overall_accuracy": metrics.overall_accuracy(matrix),
        "average_accuracy": metrics.average_accuracy(matrix),
        "kappa": metrics.kappa(matrix),
        "largest_class_share": metrics.largest_class_share(matrix),
    }


def table_head(titles: Sequence[str]) -> list[str]:
    """Begin a Markdown table."""
    return [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]


def report(name: str, figures: dict[str, Any], code: Code) -> None:
    """Print the figures and keep them, with their code, in ``benchmarks/results``."""
    RESULTS.mkdir(exist_ok=True)
    content = {"benchmark": name, "machine": machine(), **figures, "code": code}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    for key, value in figures.items():
        print(f"{key}: {value}")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a result file of JSON lines; none where there is no file."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def add_line(path: Path, line: dict[str, Any], keys: Sequence[str]) -> None:
    """Add a result, in place of the one with the same values of ``keys``."""
    kept = [x for x in read_lines(path) if any(x[k] != line[k] for k in keys)]
    part = path.with_suffix(".part")
    part.write_text("".join(json.dumps(x) + "\n" for x in [*kept, line]), "utf-8")
    part.replace(path)
