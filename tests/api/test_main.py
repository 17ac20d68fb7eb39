"""The command `python -m api` as a process."""

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
    """Return a function that starts an API on a free port. The API is killed at the end of the test."""
    with ExitStack() as stack:

        def start_process(**settings: str) -> "subprocess.Popen[str]":
            command = [sys.executable, "-m", "api", "--port", "0"]
            process = subprocess.Popen(command, env=environment(**settings), stderr=subprocess.PIPE, text=True)
            stack.callback(process.communicate)
            stack.callback(process.kill)
            return process

        yield start_process


def read_log_until(process: "subprocess.Popen[str]", pattern: str) -> re.Match[str]:
    """Read the log of the process until a line matches, and return the match."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if match := re.search(pattern, line):
            return match
    pytest.fail(f"the log ended without {pattern!r}:\n{''.join(lines)}")


def port_of(process: "subprocess.Popen[str]") -> int:
    return int(read_log_until(process, r"http://127\.0\.0\.1:(\d+)")[1])


def test_print_settings_shows_settings_without_secrets_and_serves_nothing():
    result = run("--print-settings", PROVISIONER_API_KEY="hunter2", K8S_NAMESPACE="agents")
    assert result.returncode == 0
    lines = result.stdout.splitlines()
    assert "K8S_NAMESPACE=agents" in lines
    assert "SANDBOX_CONTAINER_PORT=8080" in lines
    assert "PROVISIONER_API_KEY=********" in lines
    assert "hunter2" not in result.stdout + result.stderr


@pytest.mark.parametrize("arguments", [(), ("--print-settings",)], ids=str)
def test_wrong_settings_are_named_and_end_the_process(arguments: tuple[str, ...]):
    """Without a traceback and without secrets."""
    result = run(
        *arguments, SANDBOX_SERVICE_TYPE="LoadBalancer", SANDBOX_CONTAINER_PORT="0", PROVISIONER_API_KEY="hunter2"
    )
    assert result.returncode == 2
    assert "SANDBOX_SERVICE_TYPE" in result.stderr
    assert "SANDBOX_CONTAINER_PORT" in result.stderr
    assert "Traceback" not in result.stderr
    assert "hunter2" not in result.stdout + result.stderr


@pytest.fixture
def new_redis(valkey_url: str) -> str:
    """URL of a Redis without data."""
    with Redis.from_url(valkey_url) as redis:
        redis.flushall()
    return valkey_url


def test_process_serves_the_records_in_its_redis(start: Start, new_redis: str):
    process = start(REDIS_URL=new_redis, PROVISIONER_API_KEY=KEY)
    with httpx.Client(base_url=f"http://127.0.0.1:{port_of(process)}", headers={"X-API-Key": KEY}) as api:
        created = api.post("/api/sandboxes", json={})
        assert created.status_code == 202
        assert api.get(created.headers["Location"]).json() == created.json()


def test_process_starts_and_is_alive_without_redis(start: Start, away_url: str):
    process = start(REDIS_URL=away_url, PROVISIONER_API_KEY=KEY)
    with httpx.Client(base_url=f"http://127.0.0.1:{port_of(process)}", headers={"X-API-Key": KEY}) as api:
        assert api.get("/health").status_code == 200
        assert api.get("/api/sandboxes").status_code == 503


def test_process_finishes_open_requests_after_sigterm(start: Start, new_redis: str):
    """New connections are refused meanwhile, so the readiness probe fails as well."""
    process = start(REDIS_URL=new_redis, PROVISIONER_API_KEY=KEY)
    port = port_of(process)
    with socket.create_connection(("127.0.0.1", port), timeout=30) as line, line.makefile("rb") as answers:
        head = (
            f"POST /api/sandboxes HTTP/1.1\r\nHost: provisioner\r\nX-API-Key: {KEY}\r\n"
            f"Content-Length: {len(BODY)}\r\nExpect: 100-continue\r\n\r\n"
        )
        line.sendall(head.encode())
        assert answers.readline() == b"HTTP/1.1 100 Continue\r\n"  # sent when the handler reads the body
        answers.readline()
        process.send_signal(signal.SIGTERM)
        read_log_until(process, "Shutting down")
        read_log_until(process, "Waiting for")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        line.sendall(BODY)
        assert answers.readline().startswith(b"HTTP/1.1 202 ")
    read_log_until(process, "Finished server process")
    assert process.wait() == 0
