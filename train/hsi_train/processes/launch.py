"""What torchrun tells each of the processes that it starts."""

import os


def started() -> int:
    """Return how many processes torchrun has started for this training."""
    told = os.environ.get("WORLD_SIZE", "1")
    return int(told) if told.isdecimal() and "RANK" in os.environ else 1


def rank() -> int:
    """Return the number of this process, from 0; 0 where there are no others."""
    return int(os.environ["RANK"]) if started() > 1 else 0


def local_rank() -> int:
    """Return the number of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))
