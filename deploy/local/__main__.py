"""`python -m deploy.local`: the whole service on this machine, with nothing installed but Python."""

import argparse
import asyncio
import signal
import sys
from pathlib import Path
from typing import NoReturn

import httpx

from deploy.local.demo import demo
from deploy.local.introduction import FORGETFUL, introduction
from deploy.local.preflight import NotStartable, check, has_records, kept_key
from deploy.local.processes import ProcessEnded, show, show_nothing
from deploy.local.stack import Options, Stack
from shared import cli

MAX_WORKERS = 64
"""Limit of worker processes on one machine. Each takes 100 MB."""
MAX_PORT = 65535
QUIET = frozenset({"valkey", "kubernetes"})
"""Processes whose output is not shown. Both print addresses and hints that are meant for servers in production."""


class Parser(argparse.ArgumentParser):
    """A parser that refuses arguments with one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(cli.USAGE_ERROR, f"{message}\n")


def parse_arguments() -> argparse.Namespace:
    parser = Parser(
        prog="python -m deploy.local",
        description="Start Valkey, an emulated cluster, the API and workers. Ctrl-C stops them all.",
    )
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="worker processes (default %(default)s)")
    parser.add_argument("--kubeconfig", type=Path, help="use this real cluster instead of an emulated one")
    parser.add_argument(
        "--port", type=int, default=8002, metavar="N", help="port of the API; 0: any free one (default %(default)s)"
    )
    parser.add_argument("--data", type=Path, help="keep Valkey's data and the API key in this directory")
    parser.add_argument("--demo", action="store_true", help="create, use and delete three sandboxes, then exit")
    cli.add_version(parser)
    arguments = parser.parse_args()
    if not 1 <= arguments.workers <= MAX_WORKERS:
        parser.error(f"--workers: expected a whole number from 1 to {MAX_WORKERS}; got {arguments.workers}")
    if not 0 <= arguments.port <= MAX_PORT:
        parser.error(f"--port: expected a whole number from 0 to {MAX_PORT}; got {arguments.port}")
    return arguments


def show_to_people(name: str, line: str) -> None:
    if name not in QUIET:
        show(name, line)


async def serve(options: Options, stopped: asyncio.Event) -> int:
    """Run until Ctrl-C, and return 0. If a process ends by itself, stop the others and return 1."""
    is_forgetful = not options.kubeconfig and has_records(options.data)
    async with Stack(options) as stack:
        if is_forgetful:
            print(f"\n{FORGETFUL}")
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


async def main() -> int:
    arguments = parse_arguments()
    options = Options(
        workers=arguments.workers,
        kubeconfig=arguments.kubeconfig,
        port=arguments.port,
        data=arguments.data,
        show=show_to_people,
    )
    try:
        await check(options._replace(port=0) if arguments.demo else options)
        options = options._replace(environment=kept_key(arguments.data))
    except NotStartable as error:
        print(error, file=sys.stderr)
        return cli.USAGE_ERROR
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
