"""An API server over TLS that checks tokens and client certificates, and keeps what was sent to it."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from tests.support.certificates import Authority

EMPTY_LIST = b'{"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": []}'
UNAUTHORIZED = b'{"kind": "Status", "reason": "Unauthorized", "message": "Unauthorized", "code": 401}'


class Received:
    """A request as the server saw it: its headers, and the name in the client's certificate."""

    def __init__(self, request: web.BaseRequest) -> None:
        assert request.transport is not None
        certificate = request.transport.get_extra_info("peercert") or {}
        names = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
        self.path = request.path
        self.headers = request.headers.copy()
        self.certificate = names[0] if names else ""

    @property
    def identity(self) -> tuple[str, str, list[tuple[str, str]]]:
        """Who sent the request: the Authorization, the certificate's name, and the impersonation headers."""
        impersonation = sorted((k.lower(), v) for k, v in self.headers.items() if k.startswith("Impersonate-"))
        return self.headers.get("Authorization", ""), self.certificate, impersonation


class ApiServer:
    """`accepted` holds the Authorization headers, and the names of certificates, that are not refused with 401."""

    def __init__(self, url: str, authority: Authority) -> None:
        self.url = url
        self.authority = authority
        self.accepted: set[str] = set()
        self.requests: list[Received] = []
        self.answers: list[tuple[int, bytes]] = []
        """Answers to give before all others, first one first."""

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        received = Received(request)
        self.requests.append(received)
        if self.answers:
            status, body = self.answers.pop(0)
            return web.Response(status=status, body=body, content_type="application/json")
        if not {received.headers.get("Authorization", ""), received.certificate} & self.accepted:
            return web.Response(status=401, body=UNAUTHORIZED, content_type="application/json")
        return web.Response(body=EMPTY_LIST, content_type="application/json")


@asynccontextmanager
async def serving(
    directory: Path, *, names: str = "IP:127.0.0.1", authority: Authority | None = None
) -> AsyncIterator[ApiServer]:
    """Run a server whose certificate is for `names`. Client certificates of its own authority are accepted by TLS."""
    authority = authority or Authority(directory)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.certificate))
    context.load_cert_chain(*authority.issue("server", f"subjectAltName={names}"))
    context.verify_mode = ssl.CERT_OPTIONAL
    server = ApiServer("", authority)
    runner = web.ServerRunner(web.Server(server.handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    try:
        server.url = f"https://127.0.0.1:{runner.addresses[0][1]}"
        yield server
    finally:
        await runner.cleanup()
