"""The OpenAPI document: complete, correct, and readable without a network."""

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
"""Requests of an operation and phase. Bounds the time of the test."""


async def test_each_operation_documents_its_errors_and_its_key(serve):
    """Every route of `/api` can answer 401, 429 and 503; the health checks need no key."""
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


def test_every_code_and_reason_is_in_docs_errors():
    page = (Path(__file__).parents[3] / "docs" / "errors.md").read_text()
    codes = {kind.code for kind in ProvisionerError.__subclasses__() if kind not in {InvalidSettings, KubernetesError}}
    for word in (*codes, ProvisionerError.code, *filter(None, Reason)):
        assert f"`{word}`" in page


async def test_responses_and_problems_have_examples(serve):
    schemas = (await (await serve()).get("/schema/openapi.json")).json()["components"]["schemas"]
    for name in ("SandboxResponse", "Problem"):
        (schema,) = (schema for key, schema in schemas.items() if key.endswith(name))
        assert sum("example" in str(field) for field in schema["properties"].values()) >= 6


async def test_page_loads_scripts_and_styles_from_the_api_only(serve):
    api = await serve()
    page = (await api.get("/schema/swagger")).text
    urls = [part for part in page.split('"') if part.endswith((".js", ".css"))]
    assert urls
    for url in urls:
        assert url.startswith("/")
        assert (await api.get(url)).status_code == 200
    assert not re.search(r"""(?:src|href)\s*=\s*["']https?:""", page)


@pytest.fixture
def url(valkey_url: str) -> Iterator[str]:
    """URL of an API process without a worker. Waits end without a change.

    `/health/system` is 200 nevertheless: Redis has a heartbeat and a sync mark from the far future.
    """
    port = free_port()
    with Redis.from_url(valkey_url) as redis:
        redis.flushall()
        redis.zadd("workers", {"of-the-future": 2e10})
        redis.set("synced:default", '{"synced_at": "2e10", "dataset_id": "d", "run_id": ""}')
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


def test_every_response_is_as_documented(url: str):
    """Schemathesis sends valid and invalid requests: no 5xx, and nothing undocumented."""
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{url}/schema/openapi.json"),
        *("-H", f"X-API-Key: {KEY}", "-n", EXAMPLES, "--phases", "examples,coverage,fuzzing"),
        *("--checks", ",".join(CHECKS), "--request-timeout", "65", "--seed", "1"),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)
