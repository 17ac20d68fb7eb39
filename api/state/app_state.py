"""What requests are served with: one of each a process.

Handlers ask for it themselves. Litestar's own dependencies would be resolved anew for each request, each in a task of
its own, which takes longer than all else that a read does.
"""

from typing import Any, NamedTuple, cast

from litestar import Litestar, Request

from api.state.notifier import Waiting
from api.state.rate_limiter import Rates
from api.state.sync_gate import Completeness
from api.state.usage import Uses
from shared.liveness.vitals import Vitals
from shared.settings import Settings
from shared.store.store import Store


class Parts(NamedTuple):
    settings: Settings
    store: Store
    waiting: Waiting
    vitals: Vitals
    completeness: Completeness
    rates: Rates
    uses: Uses


def of(app: Litestar) -> Parts:
    """There as long as the application runs."""
    return cast(Parts, app.state.parts)


def parts(request: Request[Any, Any, Any]) -> Parts:
    return of(request.app)
