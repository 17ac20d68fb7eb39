"""Checks of this host's clock against the clocks of Redis and the API server."""

from deploy.doctor.context import Context
from deploy.doctor.findings import Finding, ok, warning

NOTICEABLE_SECONDS = 5.0
"""Difference that neither a slow answer nor a time in whole seconds explains."""
_ADVICE = "Synchronize the clocks of all hosts with NTP (`timedatectl`, `chronyc tracking`)."


async def check_redis_clock(context: Context) -> Finding:
    """Compare with Redis, whose clock decides when jobs and deadlines are due."""
    sent_at = context.clock()
    seconds, microseconds = await context.redis.time()
    received_at = context.clock()
    ahead = (sent_at + received_at) / 2 - (seconds + microseconds / 1_000_000)
    return _judge(ahead, _difference(ahead, "Redis"))


async def check_cluster_clock(context: Context) -> Finding:
    """Compare with the API server, which checks the validity of tokens and certificates by its clock."""
    sent_at = context.clock()
    server = await context.cluster.server_time() + 0.5  # the server's answer has whole seconds
    received_at = context.clock()
    ahead = (sent_at + received_at) / 2 - server
    return _judge(ahead, _difference(ahead, "the API server"))


def _difference(ahead: float, other: str) -> str:
    if abs(ahead) < 1:
        return f"this host's clock is within one second of {other}"
    return f"this host's clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} {other}"


def _judge(ahead: float, detail: str) -> Finding:
    return warning(detail, _ADVICE) if abs(ahead) > NOTICEABLE_SECONDS else ok(detail)
