"""Compares the plan of an interrupted run with that of the present one."""

import json
import logging
from pathlib import Path
from typing import Any

from hsi_runtime.errors import OutputError
from hsi_runtime.output.journal_folder import JOURNAL, PLAN, folder_of
from hsi_runtime.scenes.fingerprint import only_content_differs

log = logging.getLogger(__name__)


def as_text(plan: dict[str, Any]) -> bytes:
    """Write a plan, all that the values of the outputs depend on."""
    return (json.dumps(plan, indent=1, sort_keys=True) + "\n").encode()


def may_resume(path: Path, plan: dict[str, Any]) -> bool:
    """Return True if the plan that lies there is that of the present run.

    Args:
        path: Where an interrupted run left its plan.
        plan: Of the present run.

    Raises:
        OutputError: It is another run's, which may still be resumed.
    """
    if not path.is_file():
        return False
    text = path.read_bytes()
    if text == as_text(plan):
        return True
    try:
        old = json.loads(text)
    except ValueError:  # a power cut left no plan, or a part of one
        return False
    if not _has_pieces(path.with_name(JOURNAL)):
        return False  # nothing was finished, so nothing is lost
    if isinstance(old, dict) and only_content_differs(old, plan):
        log.warning(
            f"The scene has changed since the interrupted run in {path.parent}; "
            "starting afresh."
        )
        return False
    raise OutputError(
        f"{path.parent} holds an interrupted run with another "
        f"{difference(old, plan)}; repeat that run to resume it, or start "
        "afresh with --no-resume."
    )


def device_begun(output: Path) -> str | None:
    """Return the device of an interrupted run, or None if there is none."""
    path = folder_of(output) / PLAN
    try:
        plan = json.loads(path.read_bytes())
        device = str(plan["device"]).partition(",")[0]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return device if _has_pieces(path.with_name(JOURNAL)) else None


def _has_pieces(journal: Path) -> bool:
    return journal.is_file() and journal.stat().st_size > 0


def difference(old: Any, plan: dict[str, Any]) -> str:
    """Name what differs between two plans."""
    if not isinstance(old, dict):
        return "plan"
    keys = [k for k in plan if old.get(k) != plan[k]]
    return ", ".join(keys) or "plan"
