"""What load balancers and clients ask before they ask for sandboxes."""

from typing import Any

from litestar import Request, get

from api.http import openapi
from api.http.openapi import problems
from api.sandboxes.schemas import Capabilities, Health
from api.state.app_state import app_state
from shared.errors import NotReady
from shared.liveness.readiness import missing as missing_parts


@get("/health", security=[{}])
async def health() -> Health:
    """Alive: this process answers. It needs no key and asks nobody, so that no outage of Redis restarts the API."""
    return Health()


@get("/health/ready", security=[{}], responses={503: openapi.problem("Redis, the workers or the observer are missing")})
async def ready(request: Request[Any, Any, Any]) -> Health:
    """Sandboxes can be made and seen: Redis answers, a worker lives, the cluster was observed within a minute.

    Needs no key. 503 names in `missing` what is not so.
    """
    state = app_state(request)
    await state.sync_gate.is_open()
    missing = await missing_parts(state.workers, state.sync, state.store.now())
    if missing:
        raise NotReady(missing)
    return Health()


@get(
    "/health/serving",
    security=[{}],
    responses={503: openapi.problem("Redis does not answer, or its records are being made anew")},
)
async def serving(request: Request[Any, Any, Any]) -> Health:
    """Requests can be answered: Redis answers, and its records are complete. For whoever decides on traffic.

    Statuses stay as last seen while the cluster or the workers are away, and that is worth serving. Needs no key.
    """
    state = app_state(request)
    await state.sync_gate.is_open()
    if not await state.sync.has_synced():
        raise NotReady(["The cluster was never observed since Redis holds anything: start a worker."])
    return Health()


@get("/capabilities", responses=problems())
async def capabilities(request: Request[Any, Any, Any]) -> Capabilities:
    settings = app_state(request).settings
    return Capabilities(
        lark_cli_init_image=bool(settings.lark_cli_init_image),
        lark_cli_broker_image=bool(settings.lark_cli_broker_image),
    )
