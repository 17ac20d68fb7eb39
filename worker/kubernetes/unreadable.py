"""Reports objects that cannot be decoded: each time in a metric, and once in the log."""

import structlog

from shared import metrics
from worker.kubernetes.decoding import Unreadable

log = structlog.get_logger()

LOGGED_OBJECTS = 1000
"""Objects that are remembered as logged. An unreadable object is in every list, and would fill the log."""


class UnreadableLog:
    """Belongs to one client."""

    def __init__(self) -> None:
        self._logged: set[tuple[str, str, str]] = set()

    def report(self, resource: str, item: Unreadable) -> None:
        """Count the object. Log it unless that was done before."""
        metrics.UNREADABLE.labels(resource).inc()
        key = resource, item.metadata.uid or item.metadata.name, item.error
        if key in self._logged:
            return
        if len(self._logged) == LOGGED_OBJECTS:
            self._logged.clear()
        self._logged.add(key)
        log.warning(
            "unreadable object skipped",
            resource=resource,
            name=item.metadata.name,
            uid=item.metadata.uid,
            error=item.error,
        )
