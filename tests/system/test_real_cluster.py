"""The tests against a real cluster say at once what they lack, and wait for node ports."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from deploy.local.emulator import kubeconfig
from deploy.local.stack import free_port
from tests.support.real_cluster import NotUsable, get_when_reachable, node_host, require_answer

pytestmark = pytest.mark.anyio

UNREACHABLE = "node.invalid"
"""A name that never resolves (RFC 6761). Some networks answer for every address."""


async def test_run_ends_before_the_first_test_if_the_cluster_does_not_answer(tmp_path: Path):
    file = tmp_path / "kubeconfig"
    kubeconfig.write(file, f"http://127.0.0.1:{free_port()}", "token")
    environment = {name: value for name, value in os.environ.items() if name != "NODE_HOST"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-m", "cluster", "-p", "no:cacheprovider", "tests/system/test_life.py"),
        env={**environment, "TEST_KUBECONFIG": str(file)},
        cwd=Path(__file__).parents[2],
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 2
    assert f"The cluster of {file} does not answer" in output.decode()
    assert "no tests ran" in output.decode()


async def test_given_node_host_is_taken(tmp_path: Path):
    assert await node_host(tmp_path / "missing", "10.0.0.7") == "10.0.0.7"


async def test_node_that_refuses_a_connection_can_be_reached():
    await require_answer("127.0.0.1", free_port())


async def test_node_that_does_not_answer_is_refused_with_the_variable_to_set():
    with pytest.raises(NotUsable, match="Set NODE_HOST"):
        await require_answer(UNREACHABLE, 10250, seconds=0.5)


async def test_url_that_answers_late_is_fetched():
    port = free_port()
    fetch = asyncio.create_task(get_when_reachable(f"http://127.0.0.1:{port}/", seconds=20))
    await asyncio.sleep(0.2)
    async with await asyncio.start_server(answer, "127.0.0.1", port):
        assert (await fetch).status_code == 204


async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
    await writer.drain()
    writer.close()
