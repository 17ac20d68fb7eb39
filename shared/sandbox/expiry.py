"""Expiry policy: the request of the caller, within the maximums of the settings. Pure."""

from typing import NamedTuple

from shared.errors import InvalidRequest
from shared.sandbox.record import Spec
from shared.settings import Settings


class ExpiryPolicy(NamedTuple):
    """Idle timeout and lifetime in seconds; 0 means unlimited."""

    idle_timeout: float = 0.0
    lifetime: float = 0.0


NEVER_EXPIRES = ExpiryPolicy()


def expiry_policy(spec: Spec, settings: Settings) -> ExpiryPolicy:
    """Return the policy in force: the values of the request, or the defaults of the settings."""
    idle, lifetime = spec.idle_timeout_seconds, spec.lifetime_seconds
    return ExpiryPolicy(
        idle_timeout=settings.sandbox_idle_timeout_seconds if idle is None else float(idle),
        lifetime=settings.sandbox_max_lifetime_seconds if lifetime is None else float(lifetime),
    )


def check_expiry(spec: Spec, settings: Settings) -> None:
    """Check that the request is within the maximums.

    Raises:
        InvalidRequest: a value is above the maximum of the settings.
    """
    idle = "SANDBOX_MAX_IDLE_TIMEOUT_SECONDS", settings.sandbox_max_idle_timeout_seconds
    _check_maximum("idle_timeout_seconds", spec.idle_timeout_seconds, *idle)
    lifetime = "SANDBOX_MAX_LIFETIME_SECONDS", settings.sandbox_max_lifetime_seconds
    _check_maximum("lifetime_seconds", spec.lifetime_seconds, *lifetime)


def _check_maximum(field: str, value: int | None, setting: str, maximum: float) -> None:
    if value is not None and maximum and value > maximum:
        raise InvalidRequest(f"{field}: expected at most {maximum:g} ({setting}); got {value}", field=field)
