"""How long does --help take?

python benchmarks/start_up.py
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

import common

COMMANDS = ("hsi-run", "hsi-train", "hsi-export")
ROUNDS = 7


def main() -> None:
    figures = {}
    for command in COMMANDS:
        path = str(Path(sys.executable).with_name(command))
        seconds = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            subprocess.run([path, "--help"], check=True, capture_output=True)
            seconds.append(time.perf_counter() - started)
        figures[command] = {
            "median_seconds": round(statistics.median(seconds), 3),
            "range": [round(min(seconds), 3), round(max(seconds), 3)],
        }
    common.report("start_up", figures)


if __name__ == "__main__":
    main()
