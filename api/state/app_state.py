"""Services of a process that handlers use: one of each.

Handlers call `app_state` instead of taking Litestar's dependencies. Litestar resolves each dependency of each request
in a task of its own, which takes longer than the rest of a read.
"""

from typing import Any, NamedTuple, cast

from litestar import Litestar, Request

from api.state.notifier import RecordNotifier
from api.state.rate_limiter import RateLimiter
from api.state.sync_gate import SyncGate
from api.state.usage import UsageTracker
from shared.liveness.sync import ClusterSync
from shared.liveness.workers import WorkerRegistry
from shared.settings import Settings
from shared.store.store import Store


class AppState(NamedTuple):
    settings: Settings
    store: Store
    notifier: RecordNotifier
    workers: WorkerRegistry
    sync: ClusterSync
    sync_gate: SyncGate
    rate_limiter: RateLimiter
    usage: UsageTracker


def state_of(app: Litestar) -> AppState:
    """Return the services, which exist while the application's lifespan is open."""
    return cast(AppState, app.state.services)


def app_state(request: Request[Any, Any, Any]) -> AppState:
    return state_of(request.app)
