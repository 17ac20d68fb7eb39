"""`python -m deploy.local`: the whole service on this machine, with nothing installed but Python."""

import argparse
import asyncio
import os
import shlex
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx

from deploy.local.demo import demo
from deploy.local.processes import ProcessEnded, quiet, show
from deploy.local.stack import Options, Stack


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.local",
        description="Start Valkey, an emulated cluster (or use a real one), API and workers. Ctrl-C stops them all.",
    )
    parser.add_argument("--workers", type=int, default=2, help="worker processes (default %(default)s)")
    parser.add_argument("--kubeconfig", type=Path, help="use this real cluster instead of an emulated one")
    parser.add_argument("--port", type=int, default=8002, help="port of the API, 0: a free one (default %(default)s)")
    parser.add_argument("--data", type=Path, help="keep Valkey's append-only file in this directory")
    parser.add_argument("--demo", action="store_true", help="play one life of three sandboxes, show it, and exit")
    return parser.parse_args()


async def serve(options: Options, stopped: asyncio.Event) -> int:
    """Until Ctrl-C, or until a process ends that should go on: that is said, and ends everything with 1."""
    async with Stack(options) as stack:
        print(introduction(stack.urls[0], stack.key, stack.settings), flush=True)
        waiting = asyncio.create_task(stopped.wait())
        ended = asyncio.create_task(stack.ended())
        await asyncio.wait({waiting, ended}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if not ended.done():
            ended.cancel()
            print("\nstopping", flush=True)
            return 0
        print(f"\n{ended.result()}; stopping the others", file=sys.stderr)
        return 1


async def play(options: Options, stopped: asyncio.Event) -> int:
    async with Stack(options._replace(port=0, show=quiet)) as stack:
        headers = {"X-API-Key": stack.key}
        async with httpx.AsyncClient(base_url=stack.urls[0], headers=headers, timeout=10) as api:
            playing = asyncio.create_task(demo(api))
            waiting = asyncio.create_task(stopped.wait())
            await asyncio.wait({playing, waiting}, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            return playing.result() if playing.done() else await _broken_off(playing)


async def _broken_off(playing: asyncio.Task[int]) -> int:
    playing.cancel()
    await asyncio.wait([playing])
    print("\nbroken off", file=sys.stderr)
    return 1


def introduction(url: str, key: str, settings: Mapping[str, str]) -> str:
    """`settings` are a worker's."""
    return f"""
The provisioner answers on {url}
Its key is {key}

  curl -s -X POST {url}/api/sandboxes -H 'X-API-Key: {key}' -d '{{"sandbox_id": "hello"}}'
  curl -s {url}/api/sandboxes/hello -H 'X-API-Key: {key}'
  curl -s -X DELETE {url}/api/sandboxes/hello -H 'X-API-Key: {key}'

If something is wrong, ask the doctor:

  {doctor(settings)}

Ctrl-C stops everything.
"""


def doctor(settings: Mapping[str, str]) -> str:
    """One line for a shell in this directory. (It writes no log.)"""
    given = [f"{name}={shlex.quote(value)}" for name, value in settings.items() if not name.startswith("LOG_")]
    return " ".join([*given, shlex.quote(os.path.relpath(sys.executable)), "-m deploy.doctor"])


async def main() -> int:
    asked = arguments()
    options = Options(workers=asked.workers, kubeconfig=asked.kubeconfig, port=asked.port, data=asked.data, show=show)
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    try:
        return await (play(options, stopped) if asked.demo else serve(options, stopped))
    except (ProcessEnded, TimeoutError) as error:
        print(f"The stack did not start: {str(error) or 'a process did not answer in time'}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
