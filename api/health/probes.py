"""Health checks, and the capabilities of this server."""

from typing import Any

from litestar import Request, get

from api.health.schemas import Capabilities, Health
from api.http.openapi import problem, problems
from api.state.app_state import app_state
from shared.errors import NotReady
from shared.liveness import readiness


@get("/health", security=[{}])
async def health() -> Health:
    """Tell that this process is alive. Needs no key. Does not ask Redis, so that an outage of Redis restarts no API."""
    return Health()


@get("/health/ready", security=[{}])
async def ready() -> Health:
    """Tell that this process takes traffic. Needs no key. A process that shuts down accepts no connections.

    Does not ask Redis. Otherwise an outage of Redis would take every API Pod out of the Service, and callers would
    find refused connections instead of the documented 503.
    """
    return Health()


@get("/health/system", security=[{}], responses={503: problem("a part of the system is missing; `missing` names it")})
async def system(request: Request[Any, Any, Any]) -> Health:
    """Tell that the whole system works: Redis answers, workers fetch jobs, and the cluster is synced.

    Needs no key. For monitoring and for people, not for probes. A 503 lists each missing part in `missing`.
    """
    state = app_state(request)
    missing = await readiness.missing(state.workers, state.sync, state.store.now())
    if missing:
        raise NotReady(missing)
    return Health()


@get("/capabilities", responses=problems())
async def capabilities(request: Request[Any, Any, Any]) -> Capabilities:
    """Return the optional features of this server."""
    settings = app_state(request).settings
    return Capabilities(
        lark_cli_init_image=bool(settings.lark_cli_init_image),
        lark_cli_broker_image=bool(settings.lark_cli_broker_image),
    )
