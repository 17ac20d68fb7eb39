"""The OpenAPI document: complete, true, and readable without a network."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from redis import Redis

from deploy.local.stack import free_port
from shared.errors import InvalidSettings, ProvisionerError
from shared.sandbox.record import Reason
from worker.kubernetes.errors import KubernetesError

pytestmark = pytest.mark.anyio

KEY = "the-key"
EXAMPLES = "25"
"""Requests an operation and phase; bounded, for CI."""


async def test_each_operation_says_its_errors_and_its_key(serve):
    """401, 429 and 503 may come from every route of `/api`; the health check needs no key."""
    api = await serve()
    document = (await api.get("/schema/openapi.json")).json()
    operations = {
        (path, verb): operation for path, verbs in document["paths"].items() for verb, operation in verbs.items()
    }
    assert {path for path, _ in operations} == {
        "/health",
        "/health/ready",
        "/health/system",
        "/api/capabilities",
        "/api/sandboxes",
        "/api/sandboxes/{sandbox_id}",
        "/api/sandboxes/{sandbox_id}/events",
        "/api/sandboxes/{sandbox_id}/keepalive",
    }
    for (path, _), operation in operations.items():
        if path.startswith("/api"):
            assert {"401", "429", "503"} <= operation["responses"].keys()
            for status in ("401", "429", "503"):
                assert list(operation["responses"][status]["content"]) == ["application/problem+json"]
        else:
            assert operation["security"] == [{}]
    create = operations["/api/sandboxes", "post"]
    assert create["requestBody"]["content"]["application/json"]["example"]
    assert document["components"]["securitySchemes"]["key"]["name"] == "X-API-Key"


def test_every_code_and_reason_is_in_the_page_of_errors():
    """What a caller may build on is listed: each code of the error family, and each reason of a sandbox."""
    page = (Path(__file__).parents[3] / "docs" / "errors.md").read_text()
    codes = {kind.code for kind in ProvisionerError.__subclasses__() if kind not in {InvalidSettings, KubernetesError}}
    for word in (*codes, ProvisionerError.code, *filter(None, Reason)):
        assert f"`{word}`" in page


async def test_the_answers_have_examples(serve):
    """A reader of the document sees what an answer looks like, and what a problem does."""
    schemas = (await (await serve()).get("/schema/openapi.json")).json()["components"]["schemas"]
    for name in ("SandboxResponse", "Problem"):
        (schema,) = (schema for key, schema in schemas.items() if key.endswith(name))
        assert sum("example" in str(field) for field in schema["properties"].values()) >= 6


async def test_the_page_loads_nothing_from_elsewhere(serve):
    """Its scripts and styles come from the API itself."""
    api = await serve()
    page = (await api.get("/schema/swagger")).text
    loaded = [part for part in page.split('"') if part.endswith((".js", ".css"))]
    assert loaded
    for url in loaded:
        assert url.startswith("/")
        assert (await api.get(url)).status_code == 200
    assert not re.search(r"""(?:src|href)\s*=\s*["']https?:""", page)


@pytest.fixture
def url(valkey_url: str) -> Iterator[str]:
    """An API as a process, with no worker: what waits gets what there is when its wait ends.

    It is ready all the same: somebody has said, of long after this test, that a worker lives and has observed.
    """
    port = free_port()
    with Redis.from_url(valkey_url) as redis:
        redis.flushall()
        redis.zadd("workers", {"of-the-future": 2e10})
        redis.set("synced:default", "2e10")
    environment = {
        "REDIS_URL": valkey_url,
        "PROVISIONER_API_KEY": KEY,
        "DEER_FLOW_HOST_BASE_DIR": "/srv/deer",
        "LOG_LEVEL": "ERROR",
    }
    process = subprocess.Popen([sys.executable, "-m", "api", "--port", str(port)], env=environment)
    with httpx.Client(transport=httpx.HTTPTransport(retries=20)) as client:
        assert client.get(f"http://127.0.0.1:{port}/health").status_code == 200
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    assert process.wait() == 0


def test_no_request_gets_an_answer_that_the_document_does_not_describe(url: str):
    """Whatever schemathesis makes of the document, right or wrong: no 5xx, and nothing undescribed."""
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{url}/schema/openapi.json"),
        *("-H", f"X-API-Key: {KEY}", "-n", EXAMPLES, "--phases", "examples,coverage,fuzzing"),
        *("--checks", ",".join(CHECKS), "--request-timeout", "65", "--seed", "1"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)
