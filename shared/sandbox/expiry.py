"""For how long a sandbox is kept: what the caller chose, within what the settings allow. Pure."""

from typing import NamedTuple

from shared.errors import InvalidRequest
from shared.sandbox.record import Spec
from shared.settings import Settings


class ExpiryPolicy(NamedTuple):
    """For how long a sandbox may be unused, and live, in seconds; 0: for ever."""

    idle_timeout: float = 0.0
    lifetime: float = 0.0


NEVER_EXPIRES = ExpiryPolicy()


def expiry_policy(spec: Spec, settings: Settings) -> ExpiryPolicy:
    """Those in force: the caller's, or else the settings'."""
    idle, lifetime = spec.idle_timeout_seconds, spec.lifetime_seconds
    return ExpiryPolicy(
        idle_timeout=settings.sandbox_idle_timeout_seconds if idle is None else float(idle),
        lifetime=settings.sandbox_max_lifetime_seconds if lifetime is None else float(lifetime),
    )


def check_expiry(spec: Spec, settings: Settings) -> None:
    """Raises InvalidRequest: more was asked for than is allowed."""
    idle = "SANDBOX_MAX_IDLE_TIMEOUT_SECONDS", settings.sandbox_max_idle_timeout_seconds
    _within("idle_timeout_seconds", spec.idle_timeout_seconds, *idle)
    lifetime = "SANDBOX_MAX_LIFETIME_SECONDS", settings.sandbox_max_lifetime_seconds
    _within("lifetime_seconds", spec.lifetime_seconds, *lifetime)


def _within(field: str, asked: int | None, setting: str, most: float) -> None:
    if asked is not None and most and asked > most:
        raise InvalidRequest(f"{field}: at most {most:g} ({setting}); got {asked}", field=field)
