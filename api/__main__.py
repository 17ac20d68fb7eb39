"""Command `python -m api`: runs the API on uvicorn and uvloop."""

import argparse
import signal

import uvicorn

from api.app import create_app
from api.middleware.request_metrics import request_metrics_middleware
from shared import cli

DRAIN_SECONDS = 20
"""Limit for open requests after SIGTERM, below the 30 s that Kubernetes waits before it kills."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m api", description="Serve the sandbox provisioner's REST API.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    parser.add_argument("--port", type=int, default=8002, help="port to listen on (default %(default)s)")
    cli.add_print_settings(parser)
    arguments = parser.parse_args()
    settings = cli.settings_or_exit(show=arguments.print_settings)
    # After a graceful shutdown, uvicorn raises SIGTERM again for the handler installed before its own.
    signal.signal(signal.SIGTERM, lambda *_: None)
    app = request_metrics_middleware(create_app(settings))
    cli.freeze()
    uvicorn.run(
        app,
        host=arguments.host,
        port=arguments.port,
        loop="uvloop",
        http="httptools",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )


if __name__ == "__main__":
    main()
