"""Does hsi-run --follow keep up with a camera, and how far behind its lines is the map?

    python benchmarks/follow.py                  25 minutes, 40 GB of disk
    python benchmarks/follow.py --seconds 20     a shorter flight
    python benchmarks/follow.py --only flight    one part: flight, plot or methods

A simulated camera in another process writes 640 pixels x 200 bands of uint16 into a BIL
file, 250 lines a second for ten minutes. Each line's time of writing comes from the
camera, that of its classes from the lines of JSON; the follower is ready before the
first line. Then a batch run classifies the same file: its bytes must be the same. A
minute of a small camera that stalls and loses frames is plotted. Without a clock, every
method is timed on a file that is complete: as it is followed, and as a batch, in turn.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import code_digest
import common
import numpy as np
from numpy.typing import NDArray

from hsi_runtime.machine import usable_cores
from hsi_runtime.model.model_file import ModelFile, read_model
from hsi_train.methods import names
from hsi_train.simulate import SceneSpec, band_centres, write_scene

CLASSES = 16
LINES_PER_SECOND = 250.0
METHOD = "s2vnet"
FOLLOW = ("--follow", "--idle", "60s")
# A camera whose writer stalls and which loses frames, as plotted in the documentation.
DISTURBED = (
    *("--jitter", "0.3", "--stalls", "0.1", "--stall-seconds", "0.5"),
    *("--drops", "0.002", "--frame-counter", "0,0"),
)
Row = dict[str, Any]


class Size(NamedTuple):
    """Columns and bands of a camera."""

    cols: int
    bands: int


SIZE, SMALL = Size(640, 200), Size(48, 60)
PLOT_SECONDS = 60.0
PLOT = Path(__file__).parents[1] / ".docs" / "pages" / "assets" / "follow.png"


def model_of(folder: Path, method: str, size: Size) -> ModelFile:
    place = folder / f"{method}-{size.bands}"
    place.mkdir(parents=True, exist_ok=True)
    if (place / "model.onnx").is_file():
        return read_model(place / "model.onnx")
    return common.make_model(place, method, size.bands, CLASSES, 400, 2500)


def hsi_run(scene: Path, model: Path, output: Path, *more: str) -> list[str]:
    command = str(Path(sys.executable).with_name("hsi-run"))
    given = [command, str(scene), "-m", str(model), "-o", str(output), "-q", "--json"]
    return [*given, "--overwrite", "--no-resume", *more]


def rss_bytes(process: int) -> int:
    """Read what a process holds; 0 when it has ended."""
    try:
        fields = Path(f"/proc/{process}/statm").read_text().split()
    except OSError:
        return 0
    return int(fields[1]) * 4096


def fly(folder: Path, seconds: float, size: Size, more: Sequence[str]) -> Row:
    """Follow a camera for some seconds; when was what written and classified?"""
    model = model_of(folder, METHOD, size)
    scene, times = folder / "flight.bil", folder / "times.f8"
    lines = round(seconds * LINES_PER_SECOND)
    check_room(folder, lines * size.cols * size.bands * 2)
    command = [
        *(sys.executable, "-m", "hsi_train.simulate", str(scene), "--live"),
        *("--cols", str(size.cols), "--bands", str(size.bands), "--overwrite"),
        *("--lines-per-second", str(LINES_PER_SECOND), "--times", str(times)),
        *(DISTURBED if "--frame-counter" in more else ()),
    ]
    announce(scene, command)
    events = folder / "events.jsonl"
    memory: list[int] = []
    live = folder / "live.tif"
    with events.open("wb") as file:
        follower = hsi_run(scene, model.path, live, *FOLLOW, *more)
        process = subprocess.Popen(follower, stdout=file)
        while not (folder / "live.tif.hsi-live" / "classes.hdr").exists():
            if process.poll() is not None:
                raise SystemExit(f"hsi-run ended with {process.returncode}")
            time.sleep(0.05)
        camera = subprocess.Popen([*command, "--rows", str(lines)])
        while process.poll() is None:
            memory.append(rss_bytes(process.pid))
            time.sleep(0.25)
    ended = time.time()
    if process.returncode or camera.wait():
        raise SystemExit(f"hsi-run ended with {process.returncode}")
    told = [json.loads(line) for line in events.read_text().splitlines()]
    blocks = [e for e in told if e.get("event") == "classified"]
    written = np.fromfile(times)
    row = lags(blocks, written, model.document.halo)
    row |= {
        "method": METHOD,
        "cols": size.cols,
        "bands": size.bands,
        "lines": len(written),
        "physical_seconds": written[-1] - written[0],
        "wall_seconds": blocks[-1]["time"] - written[0],
        "publishing_seconds": ended - blocks[-1]["time"],
        "options": list(more),
        **peaks([size for size in memory if size]),
        **compare(scene, model, folder, [o for o in more if o != "--latest"]),
    }
    row["wall_over_physical"] = row["wall_seconds"] / row["physical_seconds"]
    return row


def check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < 1.1 * needed:
        raise SystemExit(f"The flight needs {needed / 1e9:.0f} GB in {folder}.")


def announce(scene: Path, camera: Sequence[str]) -> None:
    """Write the header of a flight, and its file without a line."""
    subprocess.run([*camera, "--rows", "1"], check=True)
    header = scene.with_suffix(".hdr")
    text = header.read_text().replace("\nlines = 1\n", "\nlines = 0\n")
    header.write_text(text)
    scene.write_bytes(b"")


def lags(blocks: list[Row], written: NDArray[np.float64], halo: int) -> Row:
    """Compare when lines were written with when their block was told."""
    rows = [e["rows"] for e in blocks]
    # A frame that was dropped has a row, but was never written: nearly the same place.
    last = rows[-1][1]
    kept = np.linspace(0, len(written) - 1, last).round().astype(int)
    moments = written[kept]
    delay = np.concatenate([e["time"] - moments[slice(*e["rows"])] for e in blocks])
    size = int(np.median([b - a for a, b in rows]))
    limit = (halo / 2 + 2 * size) / LINES_PER_SECOND
    return {
        "block_lines": size,
        "limit_ms": 1000 * limit,
        "share_within_limit": float((delay <= limit).mean()),
        "delay_ms": {
            name: float(1000 * np.percentile(delay, share))
            for name, share in (("median", 50), ("p99", 99), ("worst", 100))
        },
        "most_lag_lines": max(e["lag_lines"] for e in blocks),
        "dropped": blocks[-1]["dropped"],
    }


def peaks(memory: list[int]) -> Row:
    """Compare the memory of the second and of the last quarter of a flight."""
    quarter = max(len(memory) // 4, 1)
    return {
        "peak_memory_bytes": max(memory),
        "memory_early_bytes": max(memory[quarter : 2 * quarter] or memory),
        "memory_late_bytes": max(memory[-2 * quarter : -quarter] or memory),
    }


def compare(scene: Path, model: ModelFile, folder: Path, more: Sequence[str]) -> Row:
    """Classify the finished file as a batch; are the published bytes the same?"""
    batch = folder / "batch.tif"
    given = [*more]
    if "--latency" in given:  # which only who follows can have
        place = given.index("--latency")
        del given[place : place + 2]
    command = hsi_run(scene, model.path, batch, *given)
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    result = json.loads(done.stdout)
    return {
        "same_bytes": batch.read_bytes() == (folder / "live.tif").read_bytes(),
        "batch_lines_per_second": result["pixels_per_second"] / result["cols"],
    }


def unthrottled(folder: Path, method: str, lines: int, rounds: int) -> Row:
    """Time a method on a complete file: followed and as a batch, in turn."""
    model = model_of(folder, method, SIZE)
    scene = folder / f"whole-{lines}.bil"
    if not scene.is_file():
        spec = SceneSpec(
            rows=lines, cols=SIZE.cols, wavelengths_nm=band_centres(SIZE.bands)
        )
        write_scene(spec, scene, layout="bil", overwrite=True)
    followed: list[float] = []
    batch: list[float] = []
    for _ in range(rounds):
        given = hsi_run(scene, model.path, folder / "f.tif", "--follow", "--idle", "5s")
        done = subprocess.run(given, stdout=subprocess.PIPE, check=True)
        told = [json.loads(line) for line in done.stdout.splitlines()]
        blocks = [e for e in told if e.get("event") == "classified"]
        # From block to block: the start of the process is no part of the speed.
        seconds = blocks[-2]["time"] - blocks[0]["time"]
        followed.append((blocks[-2]["rows"][1] - blocks[0]["rows"][1]) / seconds)
        given = hsi_run(scene, model.path, folder / "b.tif")
        done = subprocess.run(given, stdout=subprocess.PIPE, check=True)
        result = json.loads(done.stdout)
        batch.append(lines / result["seconds"]["total"])
    ratios = [f / b for f, b in zip(followed, batch, strict=True)]
    return {
        "method": method,
        "lines_per_second": float(np.median(followed)),
        "batch_lines_per_second": float(np.median(batch)),
        "batch_pixels_per_second": float(np.median(batch)) * SIZE.cols,
        "ratio_to_batch": float(np.median(ratios)),
        "ratios": ratios,
    }


def markdown(flight: Row | None, methods: list[Row]) -> str:
    lines: list[str] = []
    if flight is not None:
        delay = flight["delay_ms"]
        lines += [
            f"{flight['method']}, {flight['lines']:,} lines of {flight['cols']} px x "
            f"{flight['bands']} bands at {LINES_PER_SECOND:g} lines/s, "
            f"{usable_cores()} cores: wall / physical "
            f"{flight['wall_over_physical']:.3f} up to the last line, "
            f"{flight['publishing_seconds']:.0f} s more to publish; "
            f"{flight['share_within_limit']:.2%} of the lines within "
            f"{flight['limit_ms']:.0f} ms, which are half the context and two blocks "
            f"of {flight['block_lines']} lines (median {delay['median']:.0f}, 99 % "
            f"{delay['p99']:.0f}, worst {delay['worst']:.0f}); peak memory "
            f"{flight['peak_memory_bytes'] / 1e6:.0f} MB (early "
            f"{flight['memory_early_bytes'] / 1e6:.0f}, late "
            f"{flight['memory_late_bytes'] / 1e6:.0f}); same bytes as the batch run: "
            f"{'yes' if flight['same_bytes'] else 'NO'}.",
            "",
        ]
    if methods:
        head = ["method", "followed, lines/s", "batch, lines/s", "ratio"]
        lines += common.table_head(head)
    for row in methods:
        cells = [
            row["method"],
            f"{row['lines_per_second']:,.0f}",
            f"{row['batch_lines_per_second']:,.0f}",
            f"{row['ratio_to_batch']:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", common.machine_text(), ""])


def draw(folder: Path, plot: Path) -> None:
    """Plot how long lines waited over the flight, and what was dropped."""
    from matplotlib.figure import Figure

    told = [json.loads(line) for line in (folder / "events.jsonl").open()]
    blocks = [e for e in told if e.get("event") == "classified"]
    start = blocks[0]["time"]
    seconds = [e["time"] - start for e in blocks]
    figure = Figure(figsize=(8, 5), layout="constrained")
    delay, lag, lost = figure.subplots(3, sharex=True)
    delay.plot(seconds, [e["lag_ms"] for e in blocks], linewidth=0.8)
    delay.set_ylabel("line to class, ms")
    lag.plot(seconds, [e["lag_lines"] for e in blocks], linewidth=0.8)
    lag.set_ylabel("lines waiting")
    lost.step(seconds, [e["dropped"] for e in blocks], linewidth=0.8)
    lost.set_ylabel("lines dropped")
    lost.set_xlabel("seconds of flight")
    figure.savefig(plot, dpi=100)


@click.command()
@click.option("--seconds", default=600.0, help="Duration of the flight.")
@click.option("--method", "methods", multiple=True, default=names())
@click.option("--lines", default=1200, help="Of the file that methods are timed on.")
@click.option("--rounds", default=3)
@click.option("--latency", help="As in hsi-run; by default none.")
@click.option("--size", type=(int, int), default=SIZE, help="Of the flight: px, bands.")
@click.option("--only", type=click.Choice(["flight", "plot", "methods"]))
@click.option("--folder", type=click.Path(path_type=Path), default="build/follow")
@click.option("--save/--no-save", default=True, help="Keep figures and plot.")
def main(
    seconds: float,
    methods: tuple[str, ...],
    lines: int,
    rounds: int,
    latency: str | None,
    size: tuple[int, int],
    only: str | None,
    folder: Path,
    save: bool,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    more = ["--latency", latency] if latency else []
    flight, rows = None, []
    if only in (None, "flight"):
        flight = fly(folder, seconds, Size(*size), more)
    if only in (None, "plot"):
        given = ["--frame-counter", "0,0"]
        fly(folder, min(seconds, PLOT_SECONDS), SMALL, given)
        draw(folder, PLOT if save else folder / PLOT.name)
    if only in (None, "methods"):
        rows = [unthrottled(folder, name, lines, rounds) for name in methods]
    for path in (folder / "flight.bil", folder / f"whole-{lines}.bil"):
        path.unlink(missing_ok=True)
    text = markdown(flight, rows)
    print(text)
    if save and only is None:
        code = code_digest.of("hsi_runtime.follow.flight")
        common.report("follow", {"flight": flight, "methods": rows}, code)
        (common.RESULTS / "follow.md").write_text(text)


if __name__ == "__main__":
    main()
