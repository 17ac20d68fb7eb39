"""This host's clock against the others that it works with."""

from deploy.doctor.context import Context
from deploy.doctor.findings import Finding, broken, ok, warning
from shared.queue.job import CLOCK_SKEW_SECONDS

NOTICEABLE_SECONDS = 5.0
"""Beyond what a slow answer or whole seconds explain."""
_ADVICE = "Let NTP set the clocks of all hosts (`timedatectl`, `chronyc tracking`)."


async def against_redis(patient: Context) -> Finding:
    """A worker takes jobs by its own clock, and gets them this much early."""
    began = patient.clock()
    seconds, microseconds = await patient.redis.time()
    ended = patient.clock()
    ahead = (began + ended) / 2 - (seconds + microseconds / 1_000_000)
    seen = _said(ahead, "Redis'")
    if ahead <= -CLOCK_SKEW_SECONDS:
        return broken(f"{seen}: a worker here takes each job that much late", _ADVICE)
    return _judged(ahead, seen)


async def against_cluster(patient: Context) -> Finding:
    """Certificates and tokens have a beginning and an end."""
    began = patient.clock()
    server = await patient.cluster.server_time() + 0.5  # it gives whole seconds
    ended = patient.clock()
    ahead = (began + ended) / 2 - server
    return _judged(ahead, _said(ahead, "the API server's"))


def _said(ahead: float, whose: str) -> str:
    if abs(ahead) < 1:
        return f"within a second of {whose}"
    return f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} {whose}"


def _judged(ahead: float, seen: str) -> Finding:
    return warning(seen, _ADVICE) if abs(ahead) > NOTICEABLE_SECONDS else ok(seen)
