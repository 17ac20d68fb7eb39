"""Restarts a sandbox as its next incarnation, when this one cannot get a Pod that runs. Pure."""

from shared.queue.job import Job, JobKind
from shared.sandbox.expiry import ExpiryPolicy
from shared.sandbox.record import Sandbox
from shared.sandbox.transitions import new_incarnation, next_attempt, with_reason
from shared.sandbox.urls import with_url
from shared.settings import Settings
from shared.store.update import Update

RESTART_SECONDS = 1.0
"""Pause before the next incarnation is provisioned. A node that rejects every Pod must not be asked in a loop."""


def restart(record: Sandbox, settings: Settings, *, now: float, reason: str = "", message: str = "") -> Update:
    """Return the next incarnation, with a job that provisions it and one that removes what this one has.

    The deadline stays: the caller's create must succeed within its time. `reason` and `message` tell why.
    """
    policy = ExpiryPolicy(record.idle_timeout, record.lifetime)
    successor = new_incarnation(record, record.spec, now=now, deadline=record.deadline, policy=policy)
    successor = with_reason(with_url(successor, settings), reason, message)
    cleanup = Job.of(JobKind.TERMINATE, next_attempt(record))
    return Update(successor, (cleanup, Job.of(JobKind.PROVISION, successor, now + RESTART_SECONDS)))
