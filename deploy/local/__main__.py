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
from deploy.local.processes import ProcessEnded, show, show_nothing
from deploy.local.stack import Options, Stack


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.local",
        description="Start Valkey, an emulated cluster, the API and workers. Ctrl-C stops them all.",
    )
    parser.add_argument("--workers", type=int, default=2, help="worker processes (default %(default)s)")
    parser.add_argument("--kubeconfig", type=Path, help="use this real cluster instead of an emulated one")
    parser.add_argument("--port", type=int, default=8002, help="port of the API; 0: any free one (default %(default)s)")
    parser.add_argument("--data", type=Path, help="keep Valkey's append-only file in this directory")
    parser.add_argument("--demo", action="store_true", help="create, use and delete three sandboxes, then exit")
    return parser.parse_args()


async def serve(options: Options, stopped: asyncio.Event) -> int:
    """Run until Ctrl-C, and return 0. If a process ends by itself, stop the others and return 1."""
    async with Stack(options) as stack:
        print(introduction(stack.urls[0], stack.key, stack.settings), flush=True)
        stopping = asyncio.create_task(stopped.wait())
        ending = asyncio.create_task(stack.wait_for_end())
        await asyncio.wait({stopping, ending}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not ending.done():
            ending.cancel()
            print("\nstopping", flush=True)
            return 0
        print(f"\n{ending.result()}; stopping the other processes", file=sys.stderr)
        return 1


async def play(options: Options, stopped: asyncio.Event) -> int:
    """Run the demo, and return its exit code."""
    async with Stack(options._replace(port=0, show=show_nothing)) as stack:
        headers = {"X-API-Key": stack.key}
        async with httpx.AsyncClient(base_url=stack.urls[0], headers=headers, timeout=10) as api:
            playing = asyncio.create_task(demo(api))
            stopping = asyncio.create_task(stopped.wait())
            await asyncio.wait({playing, stopping}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            return playing.result() if playing.done() else await _interrupt(playing)


async def _interrupt(playing: asyncio.Task[int]) -> int:
    playing.cancel()
    await asyncio.wait([playing])
    print("\ninterrupted", file=sys.stderr)
    return 1


def introduction(url: str, key: str, settings: Mapping[str, str]) -> str:
    """Return the text that `make dev` prints. `settings` are those of a worker."""
    return f"""
API      {url}
API key  {key}

  curl -s -X POST {url}/api/sandboxes -H 'X-API-Key: {key}' -d '{{"sandbox_id": "hello"}}'
  curl -s {url}/api/sandboxes/hello -H 'X-API-Key: {key}'
  curl -s -X DELETE {url}/api/sandboxes/hello -H 'X-API-Key: {key}'

If something does not work, run the doctor:

  {doctor_command(settings)}

Ctrl-C stops all processes.
"""


def doctor_command(settings: Mapping[str, str]) -> str:
    """Return one line for a shell in this directory. Log settings are left out, because the doctor writes no log."""
    variables = [f"{name}={shlex.quote(value)}" for name, value in settings.items() if not name.startswith("LOG_")]
    return " ".join([*variables, shlex.quote(os.path.relpath(sys.executable)), "-m deploy.doctor"])


async def main() -> int:
    arguments = parse_arguments()
    options = Options(
        workers=arguments.workers,
        kubeconfig=arguments.kubeconfig,
        port=arguments.port,
        data=arguments.data,
        show=show,
    )
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    try:
        return await (play(options, stopped) if arguments.demo else serve(options, stopped))
    except (ProcessEnded, TimeoutError) as error:
        print(f"The stack did not start: {str(error) or 'a process did not answer in time'}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
