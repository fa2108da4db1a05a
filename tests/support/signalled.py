"""Sends a signal to a command that is at work, and hears how it ends."""

import signal
import subprocess
from collections.abc import Sequence


def signalled(
    command: Sequence[str], word: str, number: signal.Signals
) -> tuple[int, str]:
    """Send the signal once the command has printed a line with the word.

    Returns:
        Return code and what it wrote to stderr. A command that goes on is killed.
    """
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == f"{word}\n"
            process.send_signal(number)
            _, message = process.communicate(timeout=60)
        finally:
            process.kill()
    return process.returncode, message
