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

import deploy.local.emulator as emulator_package
from deploy.local.emulator import kubeconfig
from deploy.local.emulator.base.options import Options
from deploy.local.emulator.runner import run

_HELP = {
    "host": "address of the API",
    "port": "port of the API; 0: any free port",
    "node_address": "address of the node ports, and hostIP of all Pods",
    "schedule_seconds": "time from the creation of a Pod to its binding",
    "start_seconds": "time from the binding to running containers, and again for each init container",
    "ready_seconds": "time from running to ready, for containers with a readiness probe",
    "termination_seconds": "time that a container needs to stop, limited by the grace of its Pod",
    "proxy_seconds": "time until a new Service or a ready Pod is reachable on its node port",
    "garbage_seconds": "time from the removal of an owner to the deletion of its dependents",
    "freshness_seconds": "time that a list waits for a future version",
    "bookmark_seconds": "time between two bookmarks of a watch",
    "history": "number of changes kept for each kind, from which watches resume",
    "seed": "seed of node ports, uids and the shares of faults, to repeat a run",
}


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.local.emulator",
        description="An emulated Kubernetes API.",
        epilog=emulator_package.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kubeconfig", type=Path, required=True, help="file to write when the API listens")
    low, high = Options().node_ports
    help_text = f"range of the node ports (default: {low}-{high})"
    parser.add_argument("--node-ports", type=_port_range, default=(low, high), metavar="LOW-HIGH", help=help_text)
    for name, text in _HELP.items():
        default = getattr(Options(), name)
        value_type = int if name == "seed" else type(default)
        option, help_text = f"--{name.replace('_', '-')}", f"{text} (default: {default})"
        parser.add_argument(option, type=value_type, default=default, metavar="VALUE", help=help_text)
    return parser


def _port_range(text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    if not (low.isdecimal() and high.isdecimal() and int(low) <= int(high)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a range of ports, for example 30000-32767")
    return int(low), int(high)


async def serve(path: Path, options: Options) -> None:
    """Run the emulator until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with run(options) as emulator:
        token = emulator.cluster.token
        kubeconfig.write(path, emulator.url, token)
        address = {"server": emulator.url, "kubeconfig": str(path), "token": token, "pid": os.getpid()}
        print(msgspec.json.encode(address).decode(), flush=True)
        await stop.wait()


def main() -> None:
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    options = vars(arguments().parse_args())
    path = options.pop("kubeconfig")
    uvloop.run(serve(path, Options(**options)))


if __name__ == "__main__":
    main()
