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
from typing import Any, NoReturn, TypeVar

import click

from hsi_runtime.errors import HsiError, resource_error

F = TypeVar("F", bound=Callable[..., Any])

# Which extra brings a package that the base install lacks.
EXTRAS = {
    "torch": "train",
    "safetensors": "train",
    "scipy": "train",
    "h5py": "train",
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
    """Tell whether a progress bar is welcome."""
    return not quiet and sys.stderr.isatty()


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
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


def print_json(content: dict[str, Any]) -> None:
    """Print one JSON object on stdout."""
    click.echo(json.dumps(content, indent=1, allow_nan=False))


def run(command: click.Command, after_interrupt: str = "") -> NoReturn:
    """Run a command and exit with the documented code; a user sees no traceback.

    Args:
        command: The click command.
        after_interrupt: Sentence to print when the user stopped it.
    """
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGHUP, _terminate)
    # Threads of torch that spin while they wait make training ten times slower as soon
    # as another program wants a core; sleeping costs a few per cent on an idle machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        code = command.main(standalone_mode=False) or 0
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except HsiError as error:
        click.echo(f"Error: {error}", err=True)
        code = error.exit_code
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").split(".")[0])
        if extra is None:
            raise
        click.echo(
            f"Error: {command.name} needs the package {error.name}; "
            f"install it with: pip install 'hsi-edge[{extra}]'",
            err=True,
        )
        code = 4
    except (MemoryError, OSError) as error:
        lack = resource_error(error)
        if lack is None:
            raise
        click.echo(f"Error: {lack}", err=True)
        code = lack.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo(f"Stopped. {after_interrupt}".strip(), err=True)
        _leave(130)
    except _TerminatedError:
        click.echo(f"Terminated. {after_interrupt}".strip(), err=True)
        _leave(143)
    except SystemExit:  # all that click does when the reader of a pipe has gone
        code = 141
    sys.exit(code if isinstance(code, int) else 0)


def _leave(code: int) -> NoReturn:
    """Exit at once, even while a thread of ours is inside a long call."""
    sys.stdout.flush()
    sys.stderr.flush()
    if threading.active_count() > 1:
        os._exit(code)
    sys.exit(code)


class _TerminatedError(BaseException):
    """SIGTERM arrived; unwinds like KeyboardInterrupt, so that files are cleaned up."""


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise _TerminatedError
