"""Timestamps in the formats of Kubernetes: whole seconds, but microseconds in an Event's `eventTime`."""

from datetime import UTC, datetime, timedelta


def now(offset_seconds: float = 0) -> str:
    moment = datetime.now(UTC) + timedelta(seconds=offset_seconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def now_micro() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
