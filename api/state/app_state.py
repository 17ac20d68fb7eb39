"""What requests are served with: one of each a process.

Handlers ask for it themselves. Litestar's own dependencies would be resolved anew for each request, each in a task of
its own, which takes longer than all else that a read does.
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
    """There as long as the application runs."""
    return cast(AppState, app.state.parts)


def app_state(request: Request[Any, Any, Any]) -> AppState:
    return state_of(request.app)
