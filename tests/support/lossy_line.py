"""A connection to Redis that loses replies: it breaks before a reply, or it forwards nothing any more."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class LossyLine:
    """A proxy between a client and Redis.

    The proxy drops the connection instead of the reply to the next request that contains the bytes `lose`. With None it
    drops nothing. While `silent` is set, the proxy accepts connections and forwards nothing, as if packets were lost.
    """

    def __init__(self, url: str) -> None:
        self.lose: bytes | None = None
        self.silent = False
        self.url = ""
        self._upstream = int(url.rpartition(":")[2].partition("/")[0])

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        async with await asyncio.start_server(self._connected, "127.0.0.1", 0) as server:
            yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        dropped = asyncio.Event()
        forwarding = asyncio.create_task(self._forward(reader, up_writer, dropped))
        while (reply := await up_reader.read(65536)) and not dropped.is_set():
            if not self.silent:
                writer.write(reply)
        for each in (writer, up_writer):
            each.close()
            await each.wait_closed()
        await forwarding

    async def _forward(
        self, reader: asyncio.StreamReader, up_writer: asyncio.StreamWriter, dropped: asyncio.Event
    ) -> None:
        while request := await reader.read(65536):
            if self.lose is not None and self.lose in request:
                self.lose = None
                dropped.set()
            if not self.silent:
                up_writer.write(request)
        up_writer.close()
