"""Loads the Lua scripts, each from a file beside the module that runs it."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
from redis.asyncio import Redis

_encode = msgspec.json.Encoder().encode
Script = Callable[..., Awaitable[Any]]


SERVER_ID = Path(__file__).with_name("server_id.lua")
"""Functions that tell which Redis server runs the script."""


def load_script(redis: Redis, module_file: str, name: str, *, prelude: Path | None = None) -> Script:
    """Return the script `name` from the folder of `module_file` (a module's `__file__`).

    The script is called with `keys` (its KEYS), `request` (its first argument, sent as JSON) and `payloads` (further
    arguments: bytes that JSON cannot carry). Redis runs it as one step. `prelude` is a file of functions for it.
    """
    text = prelude.read_text("utf-8") if prelude else ""
    run = redis.register_script(text + Path(module_file).with_name(name).read_text("utf-8"))

    def call(keys: list[str], request: object, payloads: tuple[bytes, ...] = ()) -> Awaitable[Any]:
        return run(keys=keys, args=[_encode(request), *payloads])

    return call
