"""Writes the reference of a command from the command itself."""

import importlib

import click
from tables import table

from hsi_runtime.errors import HsiError

MODULES = {
    "hsi-train": "hsi_train.cli",
    "hsi-export": "hsi_export.cli",
    "hsi-run": "hsi_runtime.cli",
    "hsi_train.simulate": "hsi_train.simulate.__main__",
    "hsi_train.accuracy": "hsi_train.accuracy",
}


def find(name: str) -> click.Command:
    """Return a command by its name."""
    module = importlib.import_module(MODULES[name])
    return next(
        value
        for value in vars(module).values()
        if isinstance(value, click.Command) and value.name == name
    )


def command(name: str) -> str:
    """Write usage, help and options of a command."""
    target = find(name)
    context = click.Context(target, info_name=name)
    usage = target.get_usage(context).removeprefix("Usage: ")
    if not name.startswith("hsi-"):
        usage = f"python -m {usage}"
    records = [p.get_help_record(context) for p in target.get_params(context)]
    rows = [(f"`{names}`", _plain(text)) for names, text in filter(None, records)]
    return "\n\n".join(
        [
            f"```text\n{usage}\n```",
            _plain((target.help or "").strip()).replace("\n    ", "\n"),
            table(("option", ""), rows),
        ]
    )


def errors() -> str:
    """Write every error that our commands and functions raise."""
    rows = [
        (
            f"`{kind.__name__}`",
            ", ".join(f"`{base.__name__}`" for base in kind.__bases__),
            f"{kind.exit_code}",
            kind.__doc__ or "",
        )
        for kind in HsiError.__subclasses__()
    ]
    return table(("error", "is a", "exit code", ""), rows)


def _plain(text: str) -> str:
    """Keep ``*_x.tif`` and ``<a>`` as they are."""
    return text.replace("*", "\\*").replace("_", "\\_").replace("<", "&lt;")
