"""What the user asks of a run that follows a sensor, checked for both doors."""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from hsi_runtime.errors import OptionError

DTYPES = ("uint8", "uint16", "int16", "uint32", "int32", "float32", "float64")
INTERLEAVES = ("bil", "bip")
MOST_SIDE = 2**24
IDLE_S = 10.0
MAX_SECONDS = 7 * 24 * 3600.0
SHARE = 0.01  # of a block's pixels that make an alert


class Alert(NamedTuple):
    """A class of interest.

    Attributes:
        name: Name or code of the class.
        share: Smallest share of a block's pixels.
    """

    name: str
    share: float = SHARE


@dataclass(frozen=True, kw_only=True)
class Following:
    """What the user may choose when a sensor is followed.

    Attributes:
        latency_s: Time from a line to its classes, where it matters more than speed.
        idle_s: A sensor that writes nothing for so long has ended; infinite: never.
        latest: Where the engine is behind, skip lines to stay live; they are classified
            in the end.
        events: File that gets a line of JSON for each block; ``unix:PATH`` names a
            socket.
        quick_look: Also draw a PNG that grows, in the folder of the live map.
        on_class: Classes of interest.
        command: Command to run when one of them appears, as words.
        shape: Columns and bands of the lines of stdin, a FIFO or a ring.
        dtype: Type of their values.
        interleave: ``bil`` or ``bip``.
        header: ENVI header that describes them, such as their wavelengths.

    Raises:
        OptionError: A value is of another type or out of range.
    """

    latency_s: float | None = None
    idle_s: float = IDLE_S
    latest: bool = False
    events: str | None = None
    quick_look: bool = False
    on_class: tuple[Alert, ...] = ()
    command: tuple[str, ...] = ()
    shape: tuple[int, int] | None = None
    dtype: str | None = None
    interleave: str | None = None
    header: Path | None = None

    def __post_init__(self) -> None:
        if self.latency_s is not None:
            _seconds("latency_s", self.latency_s)
        if self.idle_s != math.inf:
            _seconds("idle_s", self.idle_s)
        for alert in self.on_class:
            if not 0 <= alert.share <= 1:  # nor not-a-number
                raise OptionError(f"{alert.share} is not in 0..1.", "on_class")
        if self.shape is not None and not all(
            1 <= side <= MOST_SIDE for side in self.shape
        ):
            raise OptionError(f"{self.shape} is not COLS,BANDS from 1.", "shape")
        for option, names in (("dtype", DTYPES), ("interleave", INTERLEAVES)):
            value = getattr(self, option)
            if value is not None and value not in names:
                raise OptionError(
                    f"{value!r} is not one of {', '.join(names)}.", option
                )
        if self.command and not self.on_class:
            raise OptionError(
                "A command needs a class to wait for; name it with --on-class.",
                "command",
            )


def following_of(follow: bool, options: dict[str, Any]) -> Following | None:
    """Make the options of a run that follows, or refuse them where none does.

    Args:
        follow: Whether the scene is to be followed.
        options: Options by name; None or empty where not given.

    Raises:
        OptionError: One is given without ``--follow``, or out of range.
    """
    given = {
        name: value
        for name, value in options.items()
        if value is not None and value is not False and value != ()
    }
    if not follow:
        for name in given:
            raise OptionError("It needs --follow.", name)
        return None
    return Following(**given)


def _seconds(option: str, value: Any) -> None:
    try:
        seconds = float(value)
    except (TypeError, ValueError) as error:
        raise OptionError(f"{value!r} is not a time.", option) from error
    if not 0 < seconds <= MAX_SECONDS:
        raise OptionError(
            f"{value} s is not in 0..{MAX_SECONDS:.0f} s, and not above 0.", option
        )


NAMES = tuple(field.name for field in fields(Following))
