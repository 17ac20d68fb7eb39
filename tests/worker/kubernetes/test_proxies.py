"""Proxies are chosen as by Go's clients. The reference is kubectl itself."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.deploy.rendering import kubectl
from tests.support.kubeconfig import KubeconfigFile
from worker.kubernetes.credentials.access import CredentialsError
from worker.kubernetes.proxies import proxy_for

pytestmark = pytest.mark.anyio

PROXY = "http://proxy:3128"
EXCLUDED = [
    ("https://k8s.example.com", "*"),
    ("https://k8s.example.com", "example.com"),
    ("https://k8s.example.com", ".example.com"),
    ("https://k8s.example.com", "*.example.com"),
    ("https://k8s.example.com", " a , EXAMPLE.com "),
    ("https://example.com", "example.com"),
    ("https://example.com:6443", "example.com:6443"),
    ("https://example.com", "example.com:443"),
    ("http://example.com", "example.com:80"),
    ("https://k8s.example.com:6443", "*.example.com:6443"),
    ("https://10.1.2.3", "10.0.0.0/8"),
    ("https://10.1.2.3", "10.1.2.3"),
    ("https://10.1.2.3:6443", "10.1.2.3:6443"),
    ("https://[fd00::1]", "fd00::/8"),
    ("https://[fd00::1]", "fd00::1"),
    ("https://[fd00::1]:6443", "[fd00::1]:6443"),
    ("https://localhost:6443", ""),
    ("https://127.0.0.5", ""),
    ("https://[::1]:6443", ""),
]
PROXIED = [
    ("https://k8s.example.com", ""),
    ("https://k8s.example.com", "other.com,,"),
    ("https://k8s.example.com", "k8s"),
    ("https://notexample.com", "example.com"),
    ("https://example.com", ".example.com"),
    ("https://example.com", "*.example.com"),
    ("https://example.com", "example.com:6443"),
    ("https://k8s.example.com", "k8s.*.com"),
    ("https://10.1.2.3", "11.0.0.0/8"),
    ("https://10.1.2.3", "10.1.2"),
    ("https://10.1.2.3", "10.0.0.0/99"),
    ("https://10.1.2.3:6443", "10.1.2.3:443"),
    ("https://[fd00::1]", "fe80::/10"),
    ("https://k8s.example.com", "10.0.0.0/8"),
]


def proxy_of(server: str, no_proxy: str) -> str | None:
    return proxy_for(server, "", {"HTTPS_PROXY": PROXY, "HTTP_PROXY": PROXY, "NO_PROXY": no_proxy})


@pytest.mark.parametrize(("server", "no_proxy"), EXCLUDED)
def test_server_in_no_proxy_is_reached_directly(server: str, no_proxy: str):
    assert proxy_of(server, no_proxy) is None


@pytest.mark.parametrize(("server", "no_proxy"), PROXIED)
def test_other_server_is_reached_through_the_proxy(server: str, no_proxy: str):
    assert proxy_of(server, no_proxy) == PROXY


@pytest.mark.parametrize(
    ("environment", "proxy"),
    [
        ({}, None),
        ({"HTTP_PROXY": "http://a:1"}, None),
        ({"HTTPS_PROXY": "http://a:1"}, "http://a:1"),
        ({"https_proxy": "http://a:1"}, "http://a:1"),
        ({"HTTPS_PROXY": "http://a:1", "https_proxy": "http://b:1"}, "http://a:1"),
        ({"HTTPS_PROXY": "", "https_proxy": "http://b:1"}, "http://b:1"),
        ({"HTTPS_PROXY": "a:3128"}, "http://a:3128"),
        ({"HTTPS_PROXY": "HTTP://a"}, "http://a"),
        ({"HTTPS_PROXY": "http://user:pass@a:1"}, "http://user:pass@a:1"),
        ({"HTTPS_PROXY": "http://a:1", "no_proxy": "*"}, None),
        ({"HTTPS_PROXY": "http://a:1", "NO_PROXY": "x", "no_proxy": "*"}, "http://a:1"),
        ({"ALL_PROXY": "http://a:1"}, None),
    ],
)
def test_variables_are_read_in_capitals_first(environment: dict[str, str], proxy: str | None):
    assert proxy_for("https://k8s.example.com", "", environment) == proxy


def test_variable_that_a_cgi_client_can_set_is_ignored():
    environment = {"HTTP_PROXY": "http://a:1", "REQUEST_METHOD": "GET"}
    assert proxy_for("http://k8s.example.com", "", environment) is None


def test_proxy_url_of_the_kubeconfig_comes_first():
    """NO_PROXY does not concern it."""
    environment = {"HTTPS_PROXY": PROXY, "NO_PROXY": "*"}
    assert proxy_for("https://localhost", "http://own:1", environment) == "http://own:1"


def test_refused_proxy_does_not_show_its_password():
    with pytest.raises(CredentialsError, match=r"HTTPS_PROXY: expected .* got 'a:1'") as refusal:
        proxy_for("https://k8s.example.com", "", {"HTTPS_PROXY": "https://user:secret@a:1"})
    assert "secret" not in str(refusal.value)


class FakeProxy:
    """A proxy that refuses every request, and remembers that there was one."""

    def __init__(self) -> None:
        self.port = 0
        self.requests = 0

    async def refuse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.requests += 1
        writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()


@pytest.fixture
async def fake_proxy() -> AsyncIterator[FakeProxy]:
    proxy = FakeProxy()
    async with await asyncio.start_server(proxy.refuse, "127.0.0.1", 0) as server:
        proxy.port = server.sockets[0].getsockname()[1]
        yield proxy


@pytest.mark.parametrize(
    ("server", "no_proxy"), [case for case in EXCLUDED + PROXIED if "10.1.2.3" not in case[0] and "fd00" not in case[0]]
)
async def test_kubectl_chooses_the_same_proxy(fake_proxy: FakeProxy, tmp_path: Path, server: str, no_proxy: str):
    """Servers with an address are left out: kubectl would try to reach them."""
    file = KubeconfigFile(tmp_path)
    file.write({"token": "t"}, server=server)
    url = f"127.0.0.1:{fake_proxy.port}"
    variables = {"HTTPS_PROXY": url, "HTTP_PROXY": url, "NO_PROXY": no_proxy, "KUBECONFIG": str(file.path)}
    command = [kubectl(), "get", "--raw", "/version", "--request-timeout=1s"]
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **variables}
    await asyncio.to_thread(subprocess.run, command, env=environment, capture_output=True, check=False)
    assert bool(fake_proxy.requests) == (proxy_of(server, no_proxy) is not None)
