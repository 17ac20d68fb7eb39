"""Every key and channel of this service in Redis. No other module spells one.

| key | type | holds |
|---|---|---|
| `sandbox:{id}` | string | the record, JSON (`shared.sandbox.record`) |
| `sandbox:{id}:history` | list | its history, JSON (`shared.sandbox.history`), newest last |
| `sandbox:{id}:tombstone` | string | for ten minutes: the last deleted incarnation, and when and why it expired |
| `sandboxes:created`, `…:status:…`, `…:user:…`, `…:live:…`, `…:deadline` | sorted sets | `shared.store.indexes` |
| `sandboxes:freed` | list | the last times at which a sandbox ended |
| `sandboxes:changes` | channel | the id of each record that changed |
| `synced:{cluster}` | string | time of the last sync, and the dataset id (`shared.liveness.sync`) |
| `workers` | sorted set | each worker's name → its last heartbeat (`shared.liveness.workers`) |
| `leader:{cluster}` | string | the lease of the cluster's leader (`worker.leader.lease`) |
| `leader:{cluster}:renewals` | string | how often a lease of the cluster was renewed; only grows |
| `cleanup:slots` | hash | until when clean-ups are planned (`worker.jobs.cleanup_throttle`) |
| `rate:{hash of an API key}` | string | when that key's bucket is full again (`api.state.rate_limiter`) |
| `arq:queue` | sorted set | job id → when the job is due, milliseconds |
| `arq:job:{job id}` | string | the job, in arq's format |
| `arq:in-progress:{job id}` | string | the name of the worker that runs the job |
| `arq:retry:{job id}` | string | how often the job was fetched |
| `jobs` | channel | a message for each job, so that workers need not poll |
"""

from arq.constants import default_queue_name, in_progress_key_prefix, job_key_prefix, retry_key_prefix

CREATED = "sandboxes:created"
DEADLINE = "sandboxes:deadline"
STATUS = "sandboxes:status:"
USER = "sandboxes:user:"
LIVE = "sandboxes:live:"
FREED = "sandboxes:freed"
CHANGES = "sandboxes:changes"
WORKERS = "workers"
CLEANUP_SLOTS = "cleanup:slots"
RATE = "rate:"
QUEUE = default_queue_name
JOB = job_key_prefix
IN_PROGRESS = in_progress_key_prefix
RETRY = retry_key_prefix
WAKEUP_CHANNEL = "jobs"


def record(sandbox_id: str) -> str:
    return f"sandbox:{sandbox_id}"


def history(sandbox_id: str) -> str:
    return f"sandbox:{sandbox_id}:history"


def tombstone(sandbox_id: str) -> str:
    return f"sandbox:{sandbox_id}:tombstone"


def synced(cluster: str) -> str:
    return f"synced:{cluster}"


def leader(cluster: str) -> str:
    return f"leader:{cluster}"


def renewals(cluster: str) -> str:
    return f"leader:{cluster}:renewals"
