"""Network namespaces: machines with addresses of their own, on this one."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from typing import Self

import pytest

NET = "10.203.77"


class Namespaces:
    """A hub and spokes, each a namespace; spokes reach the hub and nothing else.

    A context manager, which removes them. A test is skipped where this is not allowed.

    Args:
        spokes: How many.
    """

    def __init__(self, spokes: int) -> None:
        self.names = [f"hsi{os.getpid()}n{n}" for n in range(spokes + 1)]

    def __enter__(self) -> Self:
        if shutil.which("ip") is None:
            pytest.skip("needs ip, of iproute2, for network namespaces")
        try:
            for number, name in enumerate(self.names):
                _ip("netns", "add", name)
                _ip("-n", name, "link", "set", "lo", "up")
                if number:
                    self._connect(number)
        except subprocess.CalledProcessError as error:
            self.__exit__(None, None, None)
            reason = error.stderr.decode(errors="replace").strip()
            pytest.skip(f"network namespaces are not allowed here: {reason}")
        return self

    def __exit__(self, *_: object) -> None:
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)

    def inside(self, number: int) -> list[str]:
        """Return the command that starts another one in a namespace; 0 is the hub."""
        return ["ip", "netns", "exec", self.names[number]]

    @property
    def hub(self) -> str:
        """Address of the hub."""
        return f"{NET}.254"

    def _connect(self, number: int) -> None:
        hub, spoke = self.names[0], self.names[number]
        here, there = f"h{number}", f"s{number}"
        # Born in the namespaces: the names are free there.
        _ip("-n", hub, "link", "add", here, "type", "veth", "peer", there)
        _ip("-n", hub, "link", "set", there, "netns", spoke)
        if number == 1:
            _ip("-n", hub, "address", "add", f"{self.hub}/32", "dev", "lo")
        address = f"{NET}.{number}"
        _ip("-n", spoke, "address", "add", f"{address}/32", "dev", there)
        for name, device in ((hub, here), (spoke, there)):
            _ip("-n", name, "link", "set", device, "up")
        _ip("-n", hub, "route", "add", f"{address}/32", "dev", here, "src", self.hub)
        _ip("-n", spoke, "route", "add", f"{self.hub}/32", "dev", there)


def _ip(*arguments: str) -> None:
    command: Sequence[str] = ["ip", *arguments]
    subprocess.run(command, check=True, capture_output=True)
