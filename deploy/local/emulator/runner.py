"""A running emulator: a cluster and its HTTP server."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import RawRequestMessage
from aiohttp.web_protocol import RequestHandler

from deploy.local.emulator.base.options import Options
from deploy.local.emulator.http.server import BODY_MAX, Server
from deploy.local.emulator.lifecycle.cluster import Cluster

_CLOSE_SECONDS = 0.1  # short: open watches are cut at the end
_BACKLOG = 1024


@dataclass(frozen=True, slots=True)
class Emulator:
    cluster: Cluster
    url: str


@asynccontextmanager
async def run(options: Options) -> AsyncIterator[Emulator]:
    """Run an emulator. At exit, all Pods and node ports are gone."""
    cluster = Cluster(options)
    server = web.Server(
        Server(cluster).handle, request_factory=_large_request, handler_cancellation=True, access_log=None
    )
    listener = socket.create_server((options.host, options.port), backlog=_BACKLOG)
    listening = await asyncio.get_running_loop().create_server(server, sock=listener)
    try:
        yield Emulator(cluster, f"http://{options.host}:{listener.getsockname()[1]}")
    finally:
        listening.close()
        cluster.close()
        await server.shutdown(_CLOSE_SECONDS)


def _large_request(
    message: RawRequestMessage,
    payload: StreamReader,
    protocol: RequestHandler,
    writer: AbstractStreamWriter,
    task: asyncio.Task[None],
) -> web.BaseRequest:
    """Create a request with the limit of the real server; aiohttp's own limit is lower."""
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=BODY_MAX)
