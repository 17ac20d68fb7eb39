"""The limit of HTTP answers: bare Litestar handlers that do nothing but the necessary Redis commands.

The API's own command, `python -m api`, serves them in place of its application. So both have the same server with the
same options.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import patch

from litestar import Litestar, Request, Response, get, post
from litestar.params import FromPath
from redis.asyncio import Redis

import api.__main__
from shared.store import keys


def bare(redis: Redis) -> Litestar:
    """Return the application, which closes `redis` at its end."""

    @get("/one/{key:str}")
    async def one(key: FromPath[str]) -> Response[bytes]:
        """Return one record as Redis holds it, with one GET."""
        return _json(await redis.get(keys.record(key)) or b"")

    @get("/many/{start:int}/{count:int}")
    async def many(start: FromPath[int], count: FromPath[int]) -> Response[bytes]:
        """Return records as Redis holds them, oldest first, with one ZRANGE and one MGET."""
        ids = await redis.zrange(keys.CREATED, start, start + count - 1)
        raws = await redis.mget([keys.record(sandbox_id.decode()) for sandbox_id in ids])
        return _json(b"[" + b",".join(raw for raw in raws if raw) + b"]")

    @post("/one", status_code=202)
    async def accept(request: Request[Any, Any, Any]) -> Response[bytes]:
        """Store the body, with one SET."""
        body = await request.body()
        await redis.set("bare", body)
        return _json(body)

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        async with redis:
            yield

    return Litestar([one, many, accept], lifespan=[lifespan], logging_config=None, openapi_config=None)


def _json(body: bytes) -> Response[bytes]:
    return Response(body, media_type="application/json")


def main() -> None:
    app = bare(Redis.from_url(os.environ["REDIS_URL"]))
    with (
        patch("api.__main__.create_app", lambda _: app),
        patch("api.__main__.request_metrics_middleware", lambda app: app),
    ):
        api.__main__.main()


if __name__ == "__main__":
    main()
