"""Which schedulers parts may be sent to: a scheduler runs any code that reaches it."""

import ipaddress
import re
from typing import NamedTuple

from hsi_runtime.errors import OptionError
from hsi_runtime.machine import usable_cores

MAX_WORKERS = 1024


class Local(NamedTuple):
    """Workers on this machine, which end with the run."""

    workers: int


def scheduler_of(address: str, insecure: bool) -> Local | str:
    """Check the address of a scheduler.

    Args:
        address: ``local``, ``local:N``, ``tls://HOST:PORT`` or ``tcp://HOST:PORT``.
        insecure: Whether a scheduler on another machine may do without TLS.

    Raises:
        OptionError: It is none of these, or not safe.
    """
    local = re.fullmatch(r"local(?::(\d{1,4}))?", address, re.ASCII)
    if local:
        workers = int(local[1]) if local[1] else usable_cores()
        if not 1 <= workers <= MAX_WORKERS:
            raise OptionError(f"{workers} is not in 1..{MAX_WORKERS}.", "scheduler")
        return Local(workers)
    remote = re.fullmatch(
        r"(?:(tls|tcp)://)?(\[[0-9a-fA-F:.]+\]|[\w.-]+):(\d{1,5})", address, re.ASCII
    )
    if remote is None:
        raise OptionError(
            f"{address!r} is not local, local:N, tls://HOST:PORT or tcp://HOST:PORT.",
            "scheduler",
        )
    scheme, host = remote[1] or "tcp", remote[2]
    if scheme == "tcp" and not (insecure or _is_loopback(host.strip("[]"))):
        raise OptionError(
            f"{host} is another machine, and its scheduler runs the code of whoever "
            "reaches it. Use tls://, or --insecure-cluster in a network you trust.",
            "scheduler",
        )
    return f"{scheme}://{host}:{remote[3]}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
