"""`python -m api`, as whoever runs it sees it: a process."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import httpx
import pytest
from redis import Redis

from tests.api.conftest import KEY

Start = Callable[..., "subprocess.Popen[str]"]

BODY = b'{"sandbox_id": "abc"}'


def environment(**settings: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], **settings}


def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "api", *arguments]
    return subprocess.run(command, env=environment(**settings), capture_output=True, text=True, check=False)


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts an API on a port that the system chooses; it is killed if it is still there at the end."""
    with ExitStack() as stack:

        def begin(**settings: str) -> "subprocess.Popen[str]":
            command = [sys.executable, "-m", "api", "--port", "0"]
            process = subprocess.Popen(command, env=environment(**settings), stderr=subprocess.PIPE, text=True)
            stack.callback(process.communicate)
            stack.callback(process.kill)
            return process

        yield begin


def said(process: "subprocess.Popen[str]", pattern: str) -> re.Match[str]:
    """Waits for a line of its log that has this."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if found := re.search(pattern, line):
            return found
    pytest.fail(f"it ended without {pattern!r}:\n{''.join(lines)}")


def port_of(process: "subprocess.Popen[str]") -> int:
    return int(said(process, r"http://127\.0\.0\.1:(\d+)")[1])


def test_print_settings():
    """The settings in force are shown, without the secrets, and nothing is served."""
    ended = run("--print-settings", PROVISIONER_API_KEY="hunter2", K8S_NAMESPACE="agents")
    assert ended.returncode == 0
    lines = ended.stdout.splitlines()
    assert "K8S_NAMESPACE=agents" in lines
    assert "SANDBOX_CONTAINER_PORT=8080" in lines
    assert "PROVISIONER_API_KEY=********" in lines
    assert "hunter2" not in ended.stdout + ended.stderr


@pytest.mark.parametrize("arguments", [(), ("--print-settings",)], ids=str)
def test_wrong_settings(arguments: tuple[str, ...]):
    """With wrong settings it refuses to start, and names each of them, without a traceback and without secrets."""
    ended = run(
        *arguments, SANDBOX_SERVICE_TYPE="LoadBalancer", SANDBOX_CONTAINER_PORT="0", PROVISIONER_API_KEY="hunter2"
    )
    assert ended.returncode == 2
    assert "SANDBOX_SERVICE_TYPE" in ended.stderr
    assert "SANDBOX_CONTAINER_PORT" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "hunter2" not in ended.stdout + ended.stderr


@pytest.fixture
def new_redis(valkey_url: str) -> str:
    """Of a Redis that holds nothing."""
    with Redis.from_url(valkey_url) as redis:
        redis.flushall()
    return valkey_url


def test_serves(start: Start, new_redis: str):
    """It serves what it keeps in the Redis that it is told."""
    process = start(REDIS_URL=new_redis, PROVISIONER_API_KEY=KEY)
    with httpx.Client(base_url=f"http://127.0.0.1:{port_of(process)}", headers={"X-API-Key": KEY}) as api:
        made = api.post("/api/sandboxes", json={})
        assert made.status_code == 202
        assert api.get(made.headers["Location"]).json() == made.json()


def test_starts_without_redis(start: Start, away_url: str):
    """It starts, and is alive, before Redis is there."""
    process = start(REDIS_URL=away_url, PROVISIONER_API_KEY=KEY)
    with httpx.Client(base_url=f"http://127.0.0.1:{port_of(process)}", headers={"X-API-Key": KEY}) as api:
        assert api.get("/health").status_code == 200
        assert api.get("/api/sandboxes").status_code == 503


def test_finishes_what_is_open(start: Start, new_redis: str):
    """Told to stop, it takes no new connections, finishes the request that it is at, and goes."""
    process = start(REDIS_URL=new_redis, PROVISIONER_API_KEY=KEY)
    port = port_of(process)
    with socket.create_connection(("127.0.0.1", port), timeout=30) as line, line.makefile("rb") as answers:
        head = (
            f"POST /api/sandboxes HTTP/1.1\r\nHost: provisioner\r\nX-API-Key: {KEY}\r\n"
            f"Content-Length: {len(BODY)}\r\nExpect: 100-continue\r\n\r\n"
        )
        line.sendall(head.encode())
        assert answers.readline() == b"HTTP/1.1 100 Continue\r\n"  # said when the body is asked for
        answers.readline()
        process.send_signal(signal.SIGTERM)
        said(process, "Shutting down")
        said(process, "Waiting for")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        line.sendall(BODY)
        assert answers.readline().startswith(b"HTTP/1.1 202 ")
    said(process, "Finished server process")
    assert process.wait() == 0
