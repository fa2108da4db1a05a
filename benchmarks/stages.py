"""hsi-run with a clock round each of its stages; `end_to_end` starts it.

    python benchmarks/stages.py STAGES.json SPAWNED scene.tif -m model.onnx --json

Does what the command hsi-run does, and writes to STAGES.json the seconds that each
stage took of the main thread. SPAWNED is the monotonic clock just before the process
was started. A clock costs some microseconds, and is read a few times for each window.
"""

import json
import sys
import time
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any

# Functions by stage. `windows` and `paint` are parts of `walk`.
CLOCKS = {
    "model": ["model_file.read_model"],
    "scene": ["pipeline.open_scene", "pipeline.match_scene", "pipeline.prepare"],
    "engine start": ["backends.open_backend"],
    "walk": ["pipeline._classify"],
    "windows": ["pipeline.valid_pixels", "pipeline.cut", "units.Conversion.apply"],
    "paint": ["class_map.Canvas.paint"],
    "finish": ["pipeline.convert", "pipeline._draw", "pipeline.publish"],
}
# What the command imports by and by: here at once, to time it.
MODULES = ("cli", "batch", "reports", "pipeline", "geotiff")


def clocked(function: Callable[..., Any], stage: str, seconds: dict[str, float]) -> Any:
    """Add what each call of a function takes to a stage."""

    @wraps(function)
    def timed(*arguments: Any, **named: Any) -> Any:
        started = time.monotonic()
        try:
            return function(*arguments, **named)
        finally:
            seconds[stage] += time.monotonic() - started

    return timed


def main() -> None:
    begun = time.monotonic()
    output, spawned = Path(sys.argv[1]), float(sys.argv[2])
    command, *_ = (import_module(f"hsi_runtime.{name}") for name in MODULES)
    seconds = dict.fromkeys(CLOCKS, 0.0)
    seconds |= {"interpreter": begun - spawned, "imports": time.monotonic() - begun}
    for stage, places in CLOCKS.items():
        for place in places:
            module, *owners, name = place.split(".")
            owner: Any = import_module(f"hsi_runtime.{module}")
            for part in owners:
                owner = getattr(owner, part)
            setattr(owner, name, clocked(getattr(owner, name), stage, seconds))
    sys.argv[:3] = ["hsi-run"]
    try:
        command.main()
    finally:
        output.write_text(json.dumps(seconds))


if __name__ == "__main__":
    main()
