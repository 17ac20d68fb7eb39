"""A cheap client: HTTP/1.1 on kept connections, one request at a time on each, and no decoding of bodies.

A client on the same machine takes CPU from the server that it measures, and a general client takes as much as the
server itself. This client connects to this machine only, without TLS.
"""

import asyncio
from collections.abc import Mapping
from typing import NamedTuple, cast
from urllib.parse import urlsplit

import httptools

TIMEOUT_SECONDS = 40.0
"""Time limit of an answer. Longer than an answer can be held (`Prefer: wait=30`)."""


class Response(NamedTuple):
    status: int
    body: bytes


class ConnectionLost(Exception):
    """The connection ended before the answer did."""


class Connection(asyncio.Protocol):
    """One connection, with at most one request under way. The callbacks are those of asyncio and httptools."""

    def __init__(self) -> None:
        self._response: asyncio.Future[Response] | None = None
        self.is_open = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._body: list[bytes] = []
        self._parser = httptools.HttpResponseParser(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        if self._response is not None and not self._response.done():
            self._response.set_exception(ConnectionLost(str(error or "closed")))

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, part: bytes) -> None:
        self._body.append(part)

    def on_message_complete(self) -> None:
        response = Response(self._parser.get_status_code(), b"".join(self._body))
        if not self._parser.should_keep_alive():
            self.close()
        self._body.clear()
        if self._response is not None and not self._response.done():
            self._response.set_result(response)

    async def send(self, request: bytes) -> Response:
        """Send a request, and return its response.

        Raises:
            ConnectionLost: the connection ended first.
            TimeoutError: there was no answer within TIMEOUT_SECONDS.
        """
        self._response = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        async with asyncio.timeout(TIMEOUT_SECONDS):
            return await self._response

    def close(self) -> None:
        self.is_open = False
        self._transport.close()


class Wire:
    """A client of one server, with a connection for each request under way. The caller closes the client."""

    def __init__(self, url: str, headers: Mapping[str, str] | None = None) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        lines = {"Host": parts.netloc, **(headers or {})}
        self._head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self._idle: list[Connection] = []

    async def request(self, method: str, path: str, body: bytes = b"", **headers: str) -> Response:
        """Send a request, and return its response. An underscore in a header's name stands for a hyphen.

        Raises:
            ConnectionLost: the connection ended first.
            TimeoutError: there was no answer in time.
            OSError: there is no connection.
        """
        connection = await self._connection()
        response = await connection.send(self._encode(method, path, body, headers))
        if connection.is_open:
            self._idle.append(connection)
        return response

    def close(self) -> None:
        for connection in self._idle:
            connection.close()

    def _encode(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        extra = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        length = f"Content-Length: {len(body)}\r\nContent-Type: application/json\r\n" if body else ""
        return f"{method} {path} HTTP/1.1\r\n{self._head}{extra}{length}\r\n".encode() + body

    async def _connection(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(Connection, self._host, self._port)
        return connection
