"""A connection that breaks at the worst moment: when what was asked for is done, and only its answer is on the way."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class LossyLine:
    """Between a client and Redis; `lose` tells it to drop the connection in place of the answer to the next request
    that holds these bytes. None: it loses nothing."""

    def __init__(self, url: str) -> None:
        self.lose: bytes | None = None
        self._upstream = int(url.rpartition(":")[2].partition("/")[0])

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        async with await asyncio.start_server(self._connected, "127.0.0.1", 0) as server:
            yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        dropped = asyncio.Event()
        asking = asyncio.create_task(self._ask(reader, up_writer, dropped))
        while (answer := await up_reader.read(65536)) and not dropped.is_set():
            writer.write(answer)
        for each in (writer, up_writer):
            each.close()
            await each.wait_closed()
        await asking

    async def _ask(self, reader: asyncio.StreamReader, up_writer: asyncio.StreamWriter, dropped: asyncio.Event) -> None:
        while asked := await reader.read(65536):
            if self.lose is not None and self.lose in asked:
                self.lose = None
                dropped.set()
            up_writer.write(asked)
        up_writer.close()
