import httpx
import pytest

from tests.api.conftest import Serve

pytestmark = pytest.mark.anyio


async def test_health(serve: Serve):
    """The process is alive, to anyone who asks."""
    answer = await (await serve(headers={})).get("/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_capabilities(api: httpx.AsyncClient):
    """Without images for lark-cli there is none."""
    answer = await api.get("/api/capabilities")
    assert answer.status_code == 200
    assert answer.json() == {"lark_cli_init_image": False, "lark_cli_broker_image": False}


@pytest.mark.parametrize("configured", ["lark_cli_init_image", "lark_cli_broker_image"])
async def test_capabilities_with_an_image(serve: Serve, configured: str):
    """Each image that is configured is a capability, and only that."""
    shown = (await (await serve(**{configured.upper(): "lark:1"})).get("/api/capabilities")).json()
    assert shown == {"lark_cli_init_image": False, "lark_cli_broker_image": False, configured: True}
