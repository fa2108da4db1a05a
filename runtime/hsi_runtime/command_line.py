"""What the three commands share: options, messages, exit codes."""

import contextlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NamedTuple, NoReturn, TypeVar

import click

from hsi_runtime.errors import HsiError, OutputError, reason, resource_error
from hsi_runtime.model.plain_text import plain_lines

F = TypeVar("F", bound=Callable[..., Any])
GRACE_S = 1.5  # how long the main thread may take to answer a signal


class Stop(NamedTuple):
    """How a command ends that a signal stops: its last word and its exit code."""

    word: str
    exit_code: int


STOPPED: dict[int, Stop] = {
    signal.SIGINT: Stop("Stopped.", 130),
    signal.SIGTERM: Stop("Terminated.", 143),
    signal.SIGHUP: Stop("Terminated.", 143),
}

# Which extra brings a package that the base install lacks.
EXTRAS = {
    "torch": "train",
    "safetensors": "train",
    "scipy": "train",
    "h5py": "hdf5",
    "dask": "dask",
    "distributed": "dask",
    # Also in `train`; but hsi-train misses torch before these.
    "pyogrio": "vector",
    "shapely": "vector",
    "matplotlib": "train",
    "tomli_w": "train",
    "onnx": "export",
    "onnx_ir": "export",
    "onnxscript": "export",
    "onnxruntime": "cpu",
}


def common_options(command: F) -> F:
    """Add ``--quiet``, ``--json`` and ``--version``."""
    command = click.version_option(package_name="hsi-edge")(command)
    command = click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON object on stdout."
    )(command)
    return click.option(
        "-q", "--quiet", is_flag=True, help="Print errors only; no progress."
    )(command)


def show_progress(quiet: bool) -> bool:
    """Return True if a progress bar is welcome."""
    return not quiet and sys.stderr.isatty()


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = plain_lines(super().format(record))
        kind = "warning" if record.levelno < logging.ERROR else "error"
        return text if record.levelno < logging.WARNING else f"{kind}: {text}"


def start_messages(quiet: bool) -> None:
    """Send the messages of our packages to stderr, and nobody else's chatter."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("%(message)s"))
    for package in ("hsi_train", "hsi_export", "hsi_runtime"):
        logger = logging.getLogger(package)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(logging.ERROR if quiet else logging.INFO)
    for chatty in ("torch", "onnxscript", "onnx_ir", "rasterio"):
        logging.getLogger(chatty).setLevel(logging.ERROR)


@contextlib.contextmanager
def pixel_bar(quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar of pixels, with rate and time left, on a terminal."""
    if not show_progress(quiet):
        yield lambda *_: None
        return
    from tqdm import tqdm

    with tqdm(unit="px", unit_scale=True, leave=False) as bar:

        def progress(done: int, total: int) -> None:
            if done < bar.n:  # another scene begins
                bar.reset(total)
            bar.total = total
            bar.update(done - bar.n)

        yield progress


def echo(text: str) -> None:
    """Print a result on stdout; a terminal gets no control characters of others.

    Raises:
        OutputError: stdout cannot be written, such as a full disk; not a closed pipe.
    """
    try:
        click.echo(plain_lines(text) if sys.stdout.isatty() else text)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(
            f"stdout cannot be written: {reason(error)}. The files of the result are "
            "complete."
        ) from error


def print_json(content: dict[str, Any]) -> None:
    """Print one JSON object on stdout."""
    echo(json.dumps(content, indent=1, allow_nan=False))


def run(command: click.Command, after_interrupt: str = "") -> NoReturn:
    """Run a command and exit with the documented code; a user sees no traceback.

    Args:
        command: The click command.
        after_interrupt: Sentence to print when the user stopped it.
    """
    _open_standard_streams()
    for number in STOPPED:
        # One that the caller ignores, as nohup does, stays ignored.
        if number != signal.SIGINT and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _terminate)
    # Threads of torch that spin while they wait make training ten times slower as soon
    # as another program wants a core; sleeping costs a few per cent on an idle machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        with _ending_in_time(after_interrupt):
            code = _exit_code(command)
    except (KeyboardInterrupt, click.Abort):
        _leave(signal.SIGINT, after_interrupt)
    except _TerminatedError:
        _leave(signal.SIGTERM, after_interrupt)
    sys.exit(code)


def _exit_code(command: click.Command) -> int:
    """Run a command and explain the error that ends it."""
    try:
        code = command.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except HsiError as error:
        click.echo(f"Error: {plain_lines(str(error))}", err=True)
        return error.exit_code
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").split(".")[0])
        if extra is None:
            raise
        click.echo(
            f"Error: {command.name} needs the package {error.name}; "
            f"install it with: pip install 'hsi-edge[{extra}]'",
            err=True,
        )
        return 4
    except (MemoryError, OSError) as error:
        lack = resource_error(error)
        if lack is None:
            raise
        click.echo(f"Error: {plain_lines(str(lack))}", err=True)
        return lack.exit_code
    except SystemExit as error:
        # 1 is all that click says when the reader of a pipe has gone.
        return 141 if error.code in (1, None) else int(error.code)
    return code if isinstance(code, int) else 0


def _open_standard_streams() -> None:
    """Open the standard streams that the caller closed, on ``/dev/null``.

    Otherwise the next file that is opened takes the number of a closed one, and what a
    library prints goes into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


@contextlib.contextmanager
def _ending_in_time(after_interrupt: str) -> Iterator[None]:
    """End the process if the main thread does not answer a signal.

    Python's handlers run between its own instructions: none does while the main thread
    is in a long call of an engine, of GDAL or of a parser. The number of a signal that
    arrives is written to a pipe at once, and a thread waits for it.
    """
    receiver, sender = os.pipe()
    os.set_blocking(sender, False)
    before = signal.set_wakeup_fd(sender, warn_on_full_buffer=False)
    answered = threading.Event()

    def watch() -> None:
        while number := os.read(receiver, 1):
            if number[0] in (signal.SIGINT, signal.SIGTERM) and _taken_in_order():
                continue
            if number[0] in STOPPED and not answered.wait(GRACE_S):
                with contextlib.suppress(OSError):
                    os.write(2, f"{_farewell(number[0], after_interrupt)}\n".encode())
                os._exit(STOPPED[number[0]].exit_code)

    watcher = threading.Thread(target=watch, daemon=True, name="signals")
    watcher.start()
    try:
        yield
    finally:
        answered.set()
        signal.set_wakeup_fd(before)
        os.close(sender)
        watcher.join()
        os.close(receiver)


_orderly: set[str] = set()  # "armed" while the next signal ends work in order


def _taken_in_order() -> bool:
    """Return True for the first signal that work which ends in order takes."""
    try:
        _orderly.remove("armed")
    except KeyError:
        return False
    return True


def _farewell(number: int, after_interrupt: str) -> str:
    return f"{STOPPED[number].word} {after_interrupt}".strip()


def _leave(number: int, after_interrupt: str) -> NoReturn:
    """Exit at once, even while a thread of ours is inside a long call."""
    click.echo(_farewell(number, after_interrupt), err=True)
    sys.stdout.flush()
    sys.stderr.flush()
    code = STOPPED[number].exit_code
    if threading.active_count() > 1:
        os._exit(code)
    sys.exit(code)


@contextlib.contextmanager
def orderly_stop() -> Iterator[threading.Event]:
    """Let the first SIGINT or SIGTERM end the work inside in order.

    The second one stops the command as usual.

    Yields:
        An event, which is set when the signal arrives.
    """
    stop = threading.Event()
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def end(signum: int, frame: FrameType | None) -> None:
        restore()
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop  # signals belong to the main thread
        return
    _orderly.add("armed")
    try:
        for number, handler in before.items():
            if handler != signal.SIG_IGN:
                signal.signal(number, end)
        yield stop
    finally:
        restore()
        _orderly.discard("armed")


class _TerminatedError(BaseException):
    """SIGTERM arrived; unwinds like KeyboardInterrupt, so that files are cleaned up."""


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise _TerminatedError
