import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from signalled import signalled

from hsi_runtime import command_line, errors
from hsi_runtime.errors import HsiError

ERRORS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, HsiError) and kind is not HsiError
]


def running(command: click.Command) -> Callable[[], None]:
    def main() -> None:
        command_line.run(command, "Nothing was published.")

    return main


def raising(error: BaseException) -> Callable[[], None]:
    @click.command(name="hsi-test")
    def command() -> None:
        raise error

    return running(command)


@pytest.mark.parametrize("kind", ERRORS)
def test_every_error_is_a_sentence_with_its_exit_code(
    kind: type[HsiError], invoke: Any
) -> None:
    code, out, err = invoke(raising(kind("Something is wrong.")))
    assert code == kind.exit_code
    assert 2 <= code <= 7 or code == 75
    assert err == "Error: Something is wrong.\n"
    assert out == ""


def test_exit_codes_are_those_of_the_manual() -> None:
    assert {kind.__name__: kind.exit_code for kind in ERRORS} == {
        "OptionError": 2,
        "SceneError": 3,
        "ModelFileError": 4,
        "BandMismatchError": 4,
        "EngineError": 4,
        "RecipeError": 4,
        "OutputError": 5,
        "ResourceError": 6,
        "VerificationError": 7,
        "DeviceLostError": 75,
        "ClusterError": 75,
    }


def test_missing_extra_says_what_to_install(invoke: Any) -> None:
    for package, extra in command_line.EXTRAS.items():
        error = ModuleNotFoundError(f"No module named {package!r}", name=f"{package}.x")
        code, _, err = invoke(raising(error))
        assert code == 4
        assert f"hsi-test needs the package {package}" in err
        assert f"pip install 'hsi-edge[{extra}]'" in err


def test_bugs_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["hsi-test"])
    main = raising(ModuleNotFoundError("No module named 'hsi_'", name="hsi_"))
    with pytest.raises(ModuleNotFoundError):
        main()
    with pytest.raises(ZeroDivisionError):
        raising(ZeroDivisionError())()


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "Stopped. Nothing was published."),
        (click.Abort(), 130, "Stopped."),
        (MemoryError("2 GB"), 6, "memory ran out (2 GB)"),
        (OSError(28, "No space left"), 6, "the disk is full"),
        (click.UsageError("No such thing."), 2, "No such thing."),
        (BrokenPipeError(32, "Broken pipe"), 141, ""),
    ],
)
def test_other_ends(error: BaseException, code: int, said: str, invoke: Any) -> None:
    found = invoke(raising(error))
    assert found.code == code
    assert said in found.err


def test_sigterm_unwinds_like_an_interrupt(invoke: Any) -> None:
    cleaned: list[bool] = []

    @click.command()
    def command() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            cleaned.append(True)

    code, _, err = invoke(running(command))
    assert code == 143
    assert err == "Terminated. Nothing was published.\n"
    assert cleaned == [True]


def test_success_and_options(invoke: Any) -> None:
    @click.command()
    @command_line.common_options
    def command(quiet: bool, as_json: bool) -> None:
        command_line.start_messages(quiet)
        logging.getLogger("hsi_runtime.x").info("progress")
        logging.getLogger("hsi_runtime.x").warning("careful")
        logging.getLogger("hsi_runtime.x").error("failed")
        logging.getLogger("rasterio.x").warning("chatter")
        if as_json:
            command_line.print_json({"a": 1})

    main = running(command)
    assert invoke(main) == (0, "", "progress\nwarning: careful\nerror: failed\n")
    assert invoke(main, "-q") == (0, "", "error: failed\n")
    assert invoke(main, "--json", "-q") == (0, '{\n "a": 1\n}\n', "error: failed\n")
    code, out, _ = invoke(main, "--version")
    assert code == 0
    assert "version" in out
    assert invoke(main, "--help").code == 0
    assert invoke(main, "--nonsense").code == 2


def test_no_progress_bar_without_a_terminal() -> None:
    assert not command_line.show_progress(quiet=False)
    with command_line.pixel_bar(quiet=False) as progress:
        progress(1, 2)


def test_progress_bar_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with command_line.pixel_bar(quiet=False) as progress:
        for done, total in ((0, 50), (50, 50), (0, 70), (70, 70)):  # two scenes
            progress(done, total)
    assert "0.00/70.0" in capfd.readouterr().err


def test_json_is_strict() -> None:
    with pytest.raises(ValueError, match="JSON"):
        command_line.print_json({"a": float("nan")})


def test_stopped_command_does_not_wait_for_its_threads() -> None:
    script = (
        "import click, os, signal, threading, time\n"
        "from hsi_runtime import command_line\n"
        "@click.command()\n"
        "def command():\n"
        "    threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(60)\n"
        "command_line.run(command, 'All is well.')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 143
    assert done.stderr == "Terminated. All is well.\n"


DEAF = """
import click, hashlib
from hsi_runtime import command_line

@click.command()
def command():
    print("deaf", flush=True)
    # For minutes the main thread is outside Python, without its lock.
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)

command_line.run(command, "All is well.")
"""


@pytest.mark.parametrize(
    ("number", "code", "message"),
    [
        (signal.SIGINT, 130, "Stopped. All is well.\n"),
        (signal.SIGTERM, 143, "Terminated. All is well.\n"),
        (signal.SIGHUP, 143, "Terminated. All is well.\n"),
    ],
)
def test_signal_ends_a_command_whose_main_thread_does_not_answer(
    number: signal.Signals, code: int, message: str
) -> None:
    returned, err = signalled([sys.executable, "-c", DEAF], "deaf", number)
    # Ctrl-C that comes before the long call ends the line of the terminal, too.
    assert (returned, err.lstrip("\n")) == (code, message)


def test_command_leaves_the_signals_as_it_found_them(invoke: Any) -> None:
    @click.command()
    def command() -> None:
        assert any(thread.name == "signals" for thread in threading.enumerate())

    before = signal.set_wakeup_fd(-1)
    assert invoke(running(command)).code == 0
    assert signal.set_wakeup_fd(before) == -1
    assert all(thread.name != "signals" for thread in threading.enumerate())


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_signal_that_the_caller_ignores_stays_ignored(
    number: signal.Signals, invoke: Any
) -> None:
    @click.command()
    def command() -> None:
        os.kill(os.getpid(), number)
        click.echo("done")

    before = signal.signal(number, signal.SIG_IGN)  # as nohup does
    try:
        assert invoke(running(command)) == (0, "done\n", "")
    finally:
        signal.signal(number, before)


STREAMS = """
import logging, os, sys
import click
from hsi_runtime import command_line

@click.command()
@click.argument("path")
def command(path):
    command_line.start_messages(False)
    file = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.write(2, b"what a library prints")
    logging.getLogger("hsi_runtime.x").warning("careful")
    with command_line.pixel_bar(False) as progress:
        progress(1, 2)
    command_line.print_json({"a": 1})
    os.write(file, b"data")

command_line.run(command)
"""


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_closed_streams_take_no_file_along(closed: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(STREAMS)
    line = f'exec "$0" script.py data {closed}'
    done = subprocess.run(
        ["sh", "-c", line, sys.executable],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert done.stdout == ("" if "1>" in closed else '{\n "a": 1\n}\n')
    assert ("warning: careful" in done.stderr) == ("2>" not in closed)
    assert (tmp_path / "data").read_text() == "data"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has /dev/full")
def test_stdout_that_is_full_is_named(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(STREAMS)
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "script.py", "data"],
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 5
    assert "Error: stdout cannot be written: No space left on device." in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
