"""The command: `python -m deploy.local.emulator --kubeconfig FILE`."""

import argparse
import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

import msgspec
import uvloop

from deploy.local.emulator import kubeconfig
from deploy.local.emulator.base.options import Options
from deploy.local.emulator.runner import run

_HELP = {
    "host": "address the API listens on",
    "port": "its port; 0 takes a free one",
    "node_address": "address node ports listen on, and every Pod's hostIP",
    "schedule_seconds": "from a Pod's creation to its binding",
    "start_seconds": "from the binding to running containers, once more for each init container",
    "ready_seconds": "from running to ready, for containers with a readiness probe",
    "termination_seconds": "how long a container takes to stop; the Pod's grace caps it",
    "proxy_seconds": "until a new Service or a Pod that became ready is reached on its node port",
    "garbage_seconds": "from an owner's end to the deletion of what it owned",
    "bookmark_seconds": "between two bookmarks of a watch that allows them",
    "history": "events kept per kind for watches to resume from",
    "seed": "makes node ports, uids and the strokes of faults repeat",
}


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deploy.local.emulator", description="An emulated Kubernetes API.")
    parser.add_argument("--kubeconfig", type=Path, required=True, help="written once the API listens")
    parser.add_argument("--node-ports", type=_port_range, default=Options().node_ports, metavar="LOW-HIGH")
    for name, text in _HELP.items():
        default = getattr(Options(), name)
        option_type = int if name == "seed" else type(default)
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=option_type, default=default, help=f"{text} (default: {default})"
        )
    return parser


def _port_range(text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    return int(low), int(high)


async def serve(path: Path, options: Options) -> None:
    """Until SIGTERM or SIGINT."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with run(options) as running:
        token = running.cluster.token
        kubeconfig.write(path, running.url, token)
        address = {"server": running.url, "kubeconfig": str(path), "token": token, "pid": os.getpid()}
        print(msgspec.json.encode(address).decode(), flush=True)
        await stopped.wait()


def main() -> None:
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    options = vars(arguments().parse_args())
    path = options.pop("kubeconfig")
    uvloop.run(serve(path, Options(**options)))


if __name__ == "__main__":
    main()
