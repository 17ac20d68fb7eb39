"""A client that costs little: HTTP/1.1 on kept connections, one request on each at a time, nothing decoded.

What measures a server on the same machine takes from it what it uses itself: a general client takes as much as the
server. It speaks to this machine only, without TLS.
"""

import asyncio
from collections.abc import Mapping
from typing import NamedTuple, cast
from urllib.parse import urlsplit

import httptools

TIMEOUT_SECONDS = 40.0
"""Beyond what any answer may be held (`Prefer: wait=30`)."""


class Answer(NamedTuple):
    status: int
    body: bytes


class Lost(Exception):
    """The connection ended before the answer did."""


class Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._answer: asyncio.Future[Answer] | None = None
        self.is_open = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._begin()

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(Lost(str(error or "closed")))

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, part: bytes) -> None:
        self._body.append(part)

    def on_message_complete(self) -> None:
        answer = Answer(self._parser.get_status_code(), b"".join(self._body))
        if not self._parser.should_keep_alive():
            self.close()
        self._body.clear()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)

    async def ask(self, request: bytes) -> Answer:
        """Raises Lost, TimeoutError."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        async with asyncio.timeout(TIMEOUT_SECONDS):
            return await self._answer

    def close(self) -> None:
        self.is_open = False
        self._transport.close()

    def _begin(self) -> None:
        self._body: list[bytes] = []
        self._parser = httptools.HttpResponseParser(self)


class Wire:
    """To one server, over as many connections as ask at once. Close it."""

    def __init__(self, url: str, headers: Mapping[str, str] | None = None) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        lines = {"Host": parts.netloc, **(headers or {})}
        self._head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self._idle: list[Connection] = []

    async def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        """Raises Lost, TimeoutError, OSError."""
        connection = await self._connection()
        answer = await connection.ask(self.request(method, path, body, headers))
        if connection.is_open:
            self._idle.append(connection)
        return answer

    def request(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        extra = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        length = f"Content-Length: {len(body)}\r\nContent-Type: application/json\r\n" if body else ""
        return f"{method} {path} HTTP/1.1\r\n{self._head}{extra}{length}\r\n".encode() + body

    def close(self) -> None:
        for connection in self._idle:
            connection.close()

    async def _connection(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        loop = asyncio.get_running_loop()
        _, made = await loop.create_connection(Connection, self._host, self._port)
        return made
