"""Anything may be killed at any moment: the same commands are repeated, until a map is.

Workers, their nannies, the scheduler, the client, which also joins, and a part that is
computed by hand at the same time.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from dask_machines import Machines, kill
from hsi_run import assert_same_maps, command, start_afresh

pytest.importorskip("distributed")
LOST, DONE_BEFORE = 75, 5  # exit codes
Process = "subprocess.Popen[str]"


class Chaos:
    """Kills one thing after another.

    Attributes:
        killed: How often what was killed.
    """

    def __init__(self, place: Path, machines: Machines, seed: int) -> None:
        self._place, self._machines = place, machines
        self._random = random.Random(seed)
        self.killed: Counter[str] = Counter()

    def round(self, kills: int) -> dict[str, Any]:
        """Make a map while things are killed; return what the command printed."""
        client, by_hand = self._client(), self._part()
        while True:
            wait = self._random.uniform(0.05, 5)
            limit = time.monotonic() + (wait if self.killed.total() < kills else 100)
            while client.poll() is None and time.monotonic() < limit:
                time.sleep(0.01)
            if client.poll() is None:
                assert self.killed.total() < kills, "the command does not end"
                self._kill_one(client, by_hand)
            if by_hand.poll() is not None:
                _, said = by_hand.communicate()
                assert by_hand.returncode in (0, -signal.SIGKILL, DONE_BEFORE), said
                by_hand = self._part()
            if client.poll() is None:
                continue
            out, said = client.communicate()
            assert "Traceback" not in said, said
            if client.returncode == 0:
                break
            assert client.returncode in (-signal.SIGKILL, LOST), said
            self._mend()
            client = self._client()
        _, said = by_hand.communicate(timeout=100)
        assert by_hand.returncode in (0, DONE_BEFORE), said
        report: dict[str, Any] = json.loads(out)
        return report

    def _client(self) -> "subprocess.Popen[str]":
        return self._start("--scheduler", self._machines.address)

    def _part(self) -> "subprocess.Popen[str]":
        return self._start("--part", f"{self._random.randrange(3)}/3")

    def _start(self, *more: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            command(self._place, "many.tif", *more),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _kill_one(
        self, client: "subprocess.Popen[str]", by_hand: "subprocess.Popen[str]"
    ) -> None:
        what = self._random.choice(
            ["worker", "nanny", "nanny's worker", "scheduler", "client", "part"]
        )
        machines = self._machines
        assert machines.scheduler is not None
        plain, nanny = machines.workers[-2:]
        victim = {
            "worker": plain.pid,
            "nanny": nanny.pid,
            "nanny's worker": child_of(nanny.pid),
            "scheduler": machines.scheduler.pid,
            "client": client.pid,
            "part": by_hand.pid if by_hand.poll() is None else None,
        }[what]
        if victim is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
            self.killed[what] += 1
        if what == "scheduler":
            machines.scheduler.wait()
        elif what in ("worker", "nanny"):
            self._start_workers()

    def _mend(self) -> None:
        """Start what is not there, as an operator does before the next attempt."""
        machines = self._machines
        assert machines.scheduler is not None
        if machines.scheduler.poll() is not None:
            machines.start_scheduler()
            self._start_workers()

    def _start_workers(self) -> None:
        for worker in self._machines.workers:
            kill(worker)
        self._machines.start_worker("--no-nanny")
        self._machines.start_worker("--nanny")


def child_of(process: int) -> int | None:
    """Return the last child of a process, which is a nanny's worker."""
    try:
        text = Path(f"/proc/{process}/task/{process}/children").read_text()
    except OSError:
        return None
    return int(text.split()[-1]) if text.split() else None


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_fifty_kills_of_anything(place: Path, tmp_path: Path) -> None:
    plain = subprocess.run(
        command(place, "plain.tif", "--overwrite"), capture_output=True, check=True
    )
    expected = json.loads(plain.stdout)
    maps = 0
    with Machines(tmp_path / "dask") as machines:
        machines.start_scheduler()
        chaos = Chaos(place, machines, seed=3)
        machines.start_worker("--no-nanny")
        machines.start_worker("--nanny")
        while chaos.killed.total() < 50:
            start_afresh(place)
            report = chaos.round(kills=50)
            maps += 1
            assert_same_maps(place)
            if "status" not in report:  # not killed after all was done
                assert report["pixels"] == expected["pixels"]
                assert report["classes"] == expected["classes"]
                assert all(row["attempts"] >= 1 for row in report["parts"])
            chaos._mend()
    print(f"{maps} maps, {dict(chaos.killed)}")
