"""Do the engines of a GPU compute what training computed, and how fast are they?

    python benchmarks/gpu.py               on a machine with a GPU: 12 minutes
    python benchmarks/gpu.py --dry-run     the same code in short, on the processor

Trains every method briefly on a simulated scene and exports it in both precisions. Then
measures, as far as CUDA and TensorRT are installed: the start of an engine, its
self-test and pixels per second by size of the window, for one window at a time and for
two at once as in hsi-run; the difference of both precisions from the processor's
float32; the share of the rate of plain matrix products; lines per second of a flight
that is followed; the time of a training step in bfloat16 and float32; and joules per
megapixel, by NVML or, on a Jetson, by tegrastats.

Every section is a process of its own with a share of the time: one that fails or hangs
is an error in the result, and the others go on. The result is written after each.
Without a GPU it ends with exit code 4 and writes nothing. A dry run proves that the
script works, on the processor and on WebGPU where ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER
is set; its figures mean nothing and go into its folder.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import code_digest
import common
import torch
from gpu_bench import Bench, Figures, kept
from gpu_sections import SECTIONS

from hsi_runtime.engines.backend import GPU_DEVICES
from hsi_runtime.engines.nvidia import cuda_memory, tensorrt_gpu
from hsi_runtime.errors import EngineError
from hsi_train.methods import names


def run_section(bench: Bench, name: str, seconds: float) -> None:
    """Measure a section; every figure is on the disk before the next begins."""
    until = time.monotonic() + seconds
    with (bench.folder / f"{name}.jsonl").open("a") as file:
        for key, measure in SECTIONS[name][0](bench):
            if time.monotonic() > until:
                figures: Figures = {"left_out": "no time was left"}
            else:
                try:
                    figures = measure()
                except Exception as error:  # one that fails must not end the others
                    figures = {"error": f"{type(error).__name__}: {error}"}
            file.write(json.dumps({key: figures}) + "\n")
            file.flush()
            print(f"{name}, {key}: {figures}", flush=True)


def run_alone(bench: Bench, name: str, seconds: float) -> Figures:
    """Measure a section in a process of its own, which has so many seconds."""
    given = [*(f"--method={m}" for m in bench.methods), f"--bands={bench.bands}"]
    command = [sys.executable, __file__, f"--section={name}", f"--seconds={seconds}"]
    command += [f"--folder={bench.folder}", *given, *(["--dry-run"] * bench.dry)]
    try:
        # An item that is at work when the time is over may end.
        code = subprocess.run(command, check=False, timeout=1.25 * seconds).returncode
        problem = f"ended with {code}" if code else ""
    except subprocess.TimeoutExpired:
        problem = f"did not end within {1.25 * seconds:.0f} s"
    figures = kept(bench, name)
    return figures | ({"error": f"The section {problem}."} if problem else {})


def described(bench: Bench) -> Figures:
    """Say what is measured.

    Raises:
        EngineError: There is no GPU, or no engine for it.
    """
    import onnxruntime

    versions = {"onnxruntime": onnxruntime.__version__, "torch": torch.__version__}
    figures: Figures = {"bands": bench.bands, "versions": versions}
    if bench.dry:
        return figures | {"dry_run": True, "devices": bench.devices}
    gpu = cuda_memory.probe(cuda_memory.load())
    if not bench.devices:
        raise EngineError("No engine for a GPU is installed.")
    with contextlib.suppress(EngineError):  # its failure is told when it is measured
        versions["tensorrt"] = tensorrt_gpu.load()[0].__version__
    missing = [device for device in GPU_DEVICES if device not in bench.devices]
    return figures | {"gpu": gpu._asdict(), "not_installed": missing}


def measure_all(bench: Bench, seconds: float, report: Callable[[Figures], None]) -> int:
    """Measure every section within the time; return the exit code."""
    until = time.monotonic() + seconds
    figures = described(bench)
    for name, (_, share) in SECTIONS.items():
        left = until - time.monotonic()
        figures[name] = (
            run_alone(bench, name, min(share, left / 1.25))
            if left > 1
            else {"error": "No time was left."}
        )
        report(figures)
    failed = '"error": ' in json.dumps([figures[name] for name in SECTIONS])
    return EngineError.exit_code if failed else 0


@click.command()
@click.option("--method", "methods", multiple=True, default=names())
@click.option("--bands", default=204)
@click.option("--seconds", default=720.0, help="Time for everything.")
@click.option("--dry-run", is_flag=True, help="Try the script without a GPU.")
@click.option("--folder", type=click.Path(path_type=Path), help="For a dry run.")
@click.option("--section", type=click.Choice(list(SECTIONS)), hidden=True)
def main(
    methods: tuple[str, ...],
    bands: int,
    seconds: float,
    dry_run: bool,
    folder: Path | None,
    section: str | None,
) -> None:
    with contextlib.ExitStack() as stack:
        given = folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        given.mkdir(parents=True, exist_ok=True)
        bench = Bench(given.absolute(), methods, bands, dry_run)
        os.environ["XDG_CACHE_HOME"] = str(bench.folder)  # a first start builds
        if section is not None:
            run_section(bench, section, seconds)
            return

        def report(figures: Figures) -> None:
            code = code_digest.of_running(*methods)
            if not dry_run:
                common.report("gpu", figures, code)
                return
            path = bench.folder / "gpu.json"
            path.write_text(json.dumps({**figures, "code": code}, indent=1))

        try:
            code = measure_all(bench, seconds, report)
        except EngineError as error:
            print(f"Nothing was measured. {error}", file=sys.stderr)
            code = error.exit_code
    sys.exit(code)


if __name__ == "__main__":
    main()
