"""The limit of what answers over HTTP: bare Litestar handlers with no more than the Redis commands that must be.

Served by the very command of the API, `python -m api`, with another application in its place: whatever server that
command uses, and however it is set up, is what both have.
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
    """Closes `redis` when it ends."""

    @get("/one/{key:str}")
    async def one(key: FromPath[str]) -> Response[bytes]:
        """One record as it stands in Redis: one GET."""
        return _json(await redis.get(f"sandbox:{key}") or b"")

    @get("/many/{start:int}/{count:int}")
    async def many(start: FromPath[int], count: FromPath[int]) -> Response[bytes]:
        """Records as they stand in Redis, oldest first: one ZRANGE, one MGET."""
        ids = await redis.zrange(keys.CREATED, start, start + count - 1)
        found = await redis.mget([b"sandbox:" + sandbox_id for sandbox_id in ids])
        return _json(b"[" + b",".join(raw for raw in found if raw) + b"]")

    @post("/one", status_code=202)
    async def accept(request: Request[Any, Any, Any]) -> Response[bytes]:
        """Keeps what it is sent: one SET."""
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
        patch("api.__main__.request_metrics_middleware", lambda same: same),
    ):
        api.__main__.main()


if __name__ == "__main__":
    main()
