"""What load balancers and clients ask before they ask for sandboxes."""

from litestar import get
from litestar.di import NamedDependency

from api.messages import Capabilities, Health
from api.openapi import problems
from shared.settings import Settings


@get("/health", security=[{}])
async def health() -> Health:
    """Alive: this process answers. It needs no key and asks nobody, so that no outage of Redis restarts the API."""
    return Health()


@get("/capabilities", responses=problems())
async def capabilities(settings: NamedDependency[Settings]) -> Capabilities:
    return Capabilities(
        lark_cli_init_image=bool(settings.lark_cli_init_image),
        lark_cli_broker_image=bool(settings.lark_cli_broker_image),
    )
