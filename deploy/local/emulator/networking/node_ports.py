"""Node ports: the free ones, and a listening socket for each allocated one."""

import errno
import socket
from random import Random

_BACKLOG = 128

_STATIC_SHARE = 32  # the lowest 1/32 of the range, 16 to 128 ports, is for Services that name a port (KEP-3668)
_STATIC_MIN, _STATIC_MAX = 16, 128


class RangeFull(Exception):
    """No port is free. The message is that of `pkg/registry/core/service/portallocator`."""

    def __init__(self) -> None:
        super().__init__("range is full")


class NodePorts:
    """Allocates a port by binding it, so that clients can connect as soon as they know the port."""

    def __init__(self, address: str, port_range: tuple[int, int], random: Random) -> None:
        self.port_range = port_range
        self._address = address
        self._random = random
        self._listeners: dict[int, socket.socket] = {}
        self._free = set(range(port_range[0], port_range[1] + 1))

    def is_allocated(self, port: int) -> bool:
        return port in self._listeners

    def allocate(self, port: int) -> socket.socket:
        """Allocate a port by number.

        Raises:
            OSError: another process of this machine uses the port.
        """
        listener = _listen(self._address, port)
        self._listeners[port] = listener
        self._free.discard(port)
        return listener

    def allocate_any(self) -> int:
        """Allocate a random free port. Ports of the static band come last."""
        for candidates in self._free_ports_by_band():
            while candidates:
                port = candidates.pop(self._random.randrange(len(candidates)))
                if self._try_allocate(port):
                    return port
        raise RangeFull

    def listener(self, port: int) -> socket.socket:
        return self._listeners[port]

    def release(self, port: int) -> None:
        if (listener := self._listeners.pop(port, None)) is not None:
            listener.close()
            self._free.add(port)

    def close(self) -> None:
        for port in list(self._listeners):
            self.release(port)

    def _try_allocate(self, port: int) -> bool:
        try:
            self.allocate(port)
        except OSError as error:
            if error.errno not in {errno.EADDRINUSE, errno.EACCES}:
                raise
            return False
        return True

    def _free_ports_by_band(self) -> list[list[int]]:
        low, high = self.port_range
        size = high - low + 1
        static = 0 if size <= _STATIC_MIN else min(max(_STATIC_MIN, size // _STATIC_SHARE), _STATIC_MAX)
        free = sorted(self._free)
        return [[port for port in free if port >= low + static], [port for port in free if port < low + static]]


def _listen(address: str, port: int) -> socket.socket:
    """Bind and listen. The kernel queues connections until the server starts."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
