"""Every error a user can cause or meet, each with the exit code of its command.

HsiError
    OptionError          an option has a value that it cannot take      exit 2
    SceneError           scene or labels unreadable or unsupported       exit 3
    ModelFileError       model file missing, damaged or of another kind  exit 4
    BandMismatchError    the scene's bands do not cover the model's      exit 4
    EngineError          the engine asked for is not there               exit 4
    RecipeError          a contradiction or unknown key in a recipe      exit 4
    OutputError          output exists, is the input, or is not writable exit 5
    ResourceError        disk or memory ran out                          exit 6
    VerificationError    a result failed its check                       exit 7
    DeviceLostError      the device failed in mid-run: repeat to resume  exit 75
    ClusterError         the scheduler is lost: repeat to resume         exit 75

None of them is also an error of Python's own: ``except OSError`` around a file must not
catch a sentence of ours and lose it.
"""

import errno
from typing import ClassVar

# What the operating system says when a disk, a quota or a file-size limit is full.
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class HsiError(Exception):
    """Base of all errors that are not bugs; the message is one readable sentence."""

    exit_code: ClassVar[int] = 1


class OptionError(HsiError):
    """An option has a value that it cannot take."""

    exit_code = 2

    def __init__(self, reason: str, option: str = "") -> None:
        """Keep the name of the option apart: a command calls it by its own.

        Args:
            reason: What is wrong with the value.
            option: Name of the option in Python.
        """
        super().__init__(f"{option}: {reason}" if option else reason)
        self.reason, self.option = reason, option


class SceneError(HsiError):
    """A scene or its labels cannot be used."""

    exit_code = 3


class ModelFileError(HsiError):
    """The model file is missing, damaged, or not one of ours."""

    exit_code = 4


class BandMismatchError(HsiError):
    """The scene lacks bands that the model needs."""

    exit_code = 4


class EngineError(HsiError):
    """The inference engine asked for is absent or failed to start."""

    exit_code = 4


class RecipeError(HsiError):
    """A recipe contradicts itself, or names something unknown."""

    exit_code = 4


class OutputError(HsiError):
    """The output may not, or cannot, be written."""

    exit_code = 5


class ResourceError(HsiError):
    """Disk space or memory ran out."""

    exit_code = 6


class VerificationError(HsiError):
    """A finished result does not pass its own check."""

    exit_code = 7


class DeviceLostError(HsiError):
    """The device failed while it computed; the same command resumes."""

    exit_code = 75


class ClusterError(HsiError):
    """A scheduler or its workers are lost; the same command resumes."""

    exit_code = 75


def reason(error: OSError) -> str:
    """Return why a call failed, in the words of the system or of the library."""
    return error.strerror or str(error) or type(error).__name__


def resource_error(error: MemoryError | OSError) -> ResourceError | None:
    """Return the error of a memory or a disk that ran out, if this is one."""
    if isinstance(error, MemoryError):
        return ResourceError(f"memory ran out ({error}); use smaller windows.")
    if error.errno in DISK_FULL:
        return ResourceError(f"the disk is full ({error}); make room.")
    return None
