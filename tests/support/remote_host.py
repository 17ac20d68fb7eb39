"""A host of its own for a server: a network namespace at the other end of a cable that can lose all packets.

Refused connections end at once, and a stopped process still has a kernel that acknowledges. Only lost packets show what
a host that vanished does: the sender's kernel tries again for long, and then reports ETIMEDOUT.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

NETWORKS = ("192.0.2", "198.51.100", "203.0.113")
"""The networks of examples, RFC 5737."""
WRONG_MAC = "02:00:00:00:00:0d"
"""Frames to this address are dropped by whoever receives them."""


class RemoteHost:
    """`address` is the host's; `command` runs a program there. `number` is 0 to 191, and another one for each host."""

    def __init__(self, number: int) -> None:
        network, cable = NETWORKS[number // 64], 4 * (number % 64)
        self._namespace = f"deer-{os.getpid()}-{number}"
        self._near, self._far = f"dn{os.getpid()}", f"df{os.getpid()}"
        self._near_address = f"{network}.{cable + 1}"
        self.address = f"{network}.{cable + 2}"

    def command(self, *arguments: str) -> list[str]:
        return ["ip", "netns", "exec", self._namespace, *arguments]

    @contextmanager
    def up(self) -> Iterator[None]:
        """Create the namespace and its cable. Skip the test where that is not possible."""
        if shutil.which("ip") is None:
            pytest.skip("needs the program `ip` (package iproute2)")
        created = subprocess.run(["ip", "netns", "add", self._namespace], capture_output=True, text=True, check=False)
        if created.returncode:
            pytest.skip(f"needs the right to create a network namespace: {created.stderr.strip()}")
        self._connect()
        try:
            yield
        finally:
            _ip("link", "del", self._near)
            _ip("netns", "del", self._namespace)

    def drop_packets(self) -> None:
        """Lose all packets in both directions, from now on."""
        wrong = ("lladdr", WRONG_MAC, "nud", "permanent")
        _ip("neigh", "replace", self.address, "dev", self._near, *wrong)
        _ip("-n", self._namespace, "neigh", "replace", self._near_address, "dev", self._far, *wrong)

    def deliver_packets(self) -> None:
        _ip("neigh", "del", self.address, "dev", self._near)
        _ip("-n", self._namespace, "neigh", "del", self._near_address, "dev", self._far)

    def _connect(self) -> None:
        far = ("-n", self._namespace)
        _ip("link", "add", self._near, "type", "veth", "peer", "name", self._far, "netns", self._namespace)
        _ip("addr", "add", f"{self._near_address}/30", "dev", self._near)
        _ip("link", "set", self._near, "up")
        _ip(*far, "addr", "add", f"{self.address}/30", "dev", self._far)
        for device in (self._far, "lo"):
            _ip(*far, "link", "set", device, "up")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
