"""A GET request to a sandbox that runs untrusted code: time and received bytes are bounded, interim answers included.

A general HTTP client bounds the body that it hands out. It reads headers and interim answers (`100 Continue`) without
such a bound, so a hostile sandbox could fill a worker's memory.
"""

import asyncio
from urllib.parse import urlsplit

import httptools

CHUNK_BYTES = 16 * 1024


class BoundedResponse:
    """Collects the final answer. httptools calls the methods, and returns to them for each interim answer."""

    def __init__(self) -> None:
        self.status = 0
        self.body = b""
        self.is_complete = False
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        """Take in received bytes.

        Raises:
            ValueError: the bytes are not HTTP.
        """
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            raise ValueError(f"not an HTTP response: {error}") from error

    def on_message_begin(self) -> None:
        self.body = b""

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self.is_complete |= self.status >= 200  # noqa: PLR2004 - lower numbers are interim answers


async def bounded_get(url: str, *, seconds: float, max_bytes: int) -> BoundedResponse:
    """Return the final answer of `url`, an http URL. Redirects are not followed.

    Raises:
        TimeoutError: no complete answer within `seconds`.
        ValueError: the answer is not HTTP, or longer than `max_bytes` with its headers and interim answers.
        OSError: the sandbox cannot be reached, or the connection breaks.
    """
    async with asyncio.timeout(seconds):
        target = urlsplit(url)
        reader, writer = await asyncio.open_connection(target.hostname, target.port or 80, limit=CHUNK_BYTES)
        try:
            path = f"{target.path or '/'}?{target.query}" if target.query else target.path or "/"
            head = (
                f"GET {path} HTTP/1.1\r\nHost: {target.netloc}\r\nAccept: application/json\r\nConnection: close\r\n\r\n"
            )
            writer.write(head.encode())
            return await _read(reader, max_bytes)
        finally:
            writer.transport.abort()  # a graceful close would wait for the sandbox


async def _read(reader: asyncio.StreamReader, max_bytes: int) -> BoundedResponse:
    response, received = BoundedResponse(), 0
    while not response.is_complete:
        data = await reader.read(CHUNK_BYTES)
        received += len(data)
        if received > max_bytes:
            raise ValueError(f"the answer is longer than {max_bytes} bytes")
        if not data:
            raise ConnectionError("the connection ended before the answer")
        response.feed(data)
    return response
