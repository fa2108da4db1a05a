"""A dask scheduler and workers as processes of their own, as on several machines."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Self

START_S = 120.0  # of a process on a busy machine
# A worker that takes a token does what it says once; tokens are files beside it.
DIE = "os.kill(os.getpid(), signal.SIGKILL)"
WRITING = """
import os, signal, time
from pathlib import Path
from hsi_runtime.parts.folder import PartsFolder
write = PartsFolder.write  # of ours where this is loaded twice
write = getattr(write, "original", write)

def written(self, terms, piece, layers, values):
    taken = True
    try:
        Path({token!r}).unlink()
    except FileNotFoundError:
        taken = False
    if taken and {before}:
        {action}
    write(self, terms, piece, layers, values)
    if taken and not {before}:
        {action}

written.original = write
PartsFolder.write = written
"""


class Machines:
    """A scheduler and its workers; any of them may be killed.

    A context manager, which kills all that are left.

    Args:
        folder: Of what they write.
        host: Address on which the scheduler listens.
        protocol: ``tcp`` or ``tls``.
        environment: Variables of all processes besides those of this one.
    """

    def __init__(
        self,
        folder: Path,
        host: str = "127.0.0.1",
        protocol: str = "tcp",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder, self._host, self._protocol = folder, host, protocol
        self.environment = {**os.environ, **(environment or {})}
        self._port = 0  # any; then always the same
        self.scheduler: subprocess.Popen[bytes] | None = None
        self.workers: list[subprocess.Popen[bytes]] = []
        folder.mkdir(parents=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in (*self.workers, self.scheduler):
            if process is not None:
                kill(process)

    @property
    def address(self) -> str:
        """Address of the scheduler, as ``--scheduler`` takes it."""
        return (self.folder / "address").read_text()

    def start_scheduler(self, *options: str, prefix: Sequence[str] = ()) -> str:
        """Start a scheduler, and wait for its address.

        Args:
            *options: Of ``dask scheduler``.
            prefix: Command that starts it.
        """
        told = self.folder / "address"
        told.unlink(missing_ok=True)
        preload = self.folder / "tell_address.py"
        preload.write_text(
            "from pathlib import Path\n"
            "async def dask_setup(scheduler):\n"
            f"    part = Path({str(told)!r} + '.part')\n"
            "    part.write_text(scheduler.address)\n"
            f"    part.rename({str(told)!r})\n"
        )
        self.scheduler = process = self._start(
            *("scheduler", *prefix, sys.executable, "-m", "dask", "scheduler"),
            *("--host", self._host, "--port", str(self._port)),
            *("--protocol", self._protocol, "--no-dashboard"),
            *("--preload", str(preload), *options),
        )
        wait_until(told.is_file, lambda: process.poll() is None)
        self._port = int(self.address.rpartition(":")[2])
        return self.address

    def start_worker(
        self, *options: str, prefix: Sequence[str] = (), preload: str = ""
    ) -> "subprocess.Popen[bytes]":
        """Start a worker, of which the scheduler learns some time later.

        Args:
            *options: Of ``dask worker``.
            prefix: Command that starts it.
            preload: Code that it runs first.
        """
        name = f"worker{len(self.workers)}"
        if preload:
            script = self.folder / f"{name}_preload.py"
            script.write_text(preload)
            options = (*options, "--preload", str(script))
        worker = self._start(
            *(name, *prefix, sys.executable, "-m", "dask", "worker", self.address),
            *("--nthreads", "1", "--memory-limit", "0", "--no-dashboard"),
            *("--local-directory", str(self.folder), *options),
        )
        self.workers.append(worker)
        return worker

    def wait_for_workers(self) -> None:
        """Wait until the scheduler knows all workers."""
        for number, worker in enumerate(self.workers):
            wait_until(
                partial(
                    lambda log: "Registered to" in self.log(log), f"worker{number}"
                ),
                partial(lambda process: process.poll() is None, worker),
            )

    def at_a_piece(self, action: str, before: bool = False) -> str:
        """Return code for a worker that acts once, after or before it writes a piece.

        Whatever number of workers run it, only one acts.
        """
        token = self.folder / "token"
        token.touch()
        return WRITING.format(token=str(token), action=action, before=before)

    def log(self, name: str) -> str:
        """Return what a process printed."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def _start(self, name: str, *command: str) -> "subprocess.Popen[bytes]":
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                env=self.environment,
                start_new_session=True,
            )


def kill(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_until(met: Callable[[], object], possible: Callable[[], bool]) -> None:
    """Wait for something while it is possible."""
    limit = time.monotonic() + START_S
    while not met():
        assert possible(), "what is waited for cannot come any more"
        assert time.monotonic() < limit, "what is waited for does not come"
        time.sleep(0.005)
