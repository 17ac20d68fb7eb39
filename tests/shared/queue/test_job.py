from typing import Any, cast

import msgspec
import pytest
from arq.connections import ArqRedis
from arq.constants import health_check_key_suffix
from arq.typing import WorkerCoroutine
from arq.worker import Worker, func
from hypothesis import given
from hypothesis import strategies as st

from shared.queue import job as queue
from shared.queue.job import Job, JobKind
from shared.sandbox.record import Spec
from shared.sandbox.transitions import new_record, next_attempt
from shared.store import keys
from shared.store.store import Store
from shared.store.update import Update

pytestmark = pytest.mark.anyio

RECORD = new_record("abc", Spec(), cluster="default", now=1_750_000_000.0)
JOBS = (Job.of(JobKind.TERMINATE, RECORD), Job.of(JobKind.PROVISION, next_attempt(RECORD)))


async def write(redis: ArqRedis) -> None:
    await Store(redis).create_or_update("abc", lambda _: Update(RECORD, JOBS))


def burst(redis: ArqRedis, ran: list[tuple[Any, ...]]) -> Worker:
    """Return arq's own worker, which ends when the queue is empty. Its jobs append kind, id and arguments to `ran`."""

    def recorder(kind: JobKind) -> Any:
        async def record(context: dict[Any, Any], *arguments: Any) -> None:
            ran.append((kind, context["job_id"], *arguments))

        return func(cast(WorkerCoroutine, record), name=kind)

    return Worker(
        [recorder(kind) for kind in JobKind],
        redis_pool=redis,
        burst=True,
        poll_delay=0.005,
        keep_result=0,
        handle_signals=False,
        job_serializer=queue.encode,
        job_deserializer=queue.decode,
    )


async def test_arqs_own_worker_runs_the_jobs_that_an_update_wrote(valkey: ArqRedis):
    await write(valkey)
    ran: list[tuple[Any, ...]] = []
    worker = burst(valkey, ran)
    await worker.main()
    assert sorted(ran) == sorted((job.kind, job.id, "abc", RECORD.incarnation, job.attempt) for job in JOBS)
    assert (worker.jobs_complete, worker.jobs_failed, worker.jobs_retried) == (2, 0, 0)


async def test_finished_job_leaves_no_key(valkey: ArqRedis):
    """A key that stays would block a later job with the same id."""
    await write(valkey)
    await burst(valkey, []).main()
    assert await valkey.keys("arq:*") in ([], [(keys.QUEUE + health_check_key_suffix).encode()])


async def test_update_writes_the_same_keys_and_contents_as_arqs_enqueue_job(valkey: ArqRedis):
    """Lifetimes of the keys are the same, too.

    Only the place in the queue differs: creates overtake other jobs.
    """
    await write(valkey)
    jobs = await read_jobs(valkey)
    await valkey.delete(*jobs, keys.QUEUE)
    for job in JOBS:
        await valkey.enqueue_job(job.kind, job.sandbox_id, job.incarnation, job.attempt, _job_id=job.id)
    assert jobs == await read_jobs(valkey)


async def read_jobs(redis: ArqRedis) -> dict[str, Any]:
    """Return each job's key with its contents. The times differ, so they are checked here and left out."""
    jobs = {}
    for job_id, score in await redis.zrange(keys.QUEUE, 0, -1, withscores=True):
        key = keys.JOB + job_id.decode()
        contents = queue.decode(await redis.get(key))
        head_starts = {0, queue.CREATE_PRIORITY_SECONDS * 1000}
        assert contents.pop("et") - score in head_starts
        assert queue.EXPIRES_MS - 60_000 < await redis.pttl(key) <= queue.EXPIRES_MS
        jobs[key] = contents
    assert len(jobs) == len(await redis.keys("arq:job:*")) == len(JOBS)
    return jobs


async def test_arq_does_not_enqueue_a_job_that_an_update_has_written(valkey: ArqRedis):
    await write(valkey)
    assert await valkey.enqueue_job(JOBS[0].kind, "abc", RECORD.incarnation, 1, _job_id=JOBS[0].id) is None


@given(
    st.lists(
        st.builds(
            Job,
            st.sampled_from(JobKind),
            st.sampled_from(["a", "a-1", "1"]),
            st.sampled_from(["1-x", "2-x", "11-x"]),
            st.integers(1, 12),
        ),
        unique=True,
    )
)
def test_different_jobs_have_different_ids(jobs: list[Job]):
    """Kind, sandbox, incarnation and attempt are all part of the id."""
    assert len({job.id for job in jobs}) == len(jobs)


@pytest.mark.parametrize(
    "value",
    [{"a": 1}, {"r": None, "s": True}, {"a": ("abc", 2.5, b"x")}, {"f": "provision", "k": {}}],
)
def test_encoded_value_decodes_to_the_same_value_with_lists_for_tuples(value: dict[str, Any]):
    expected = {key: list(item) if isinstance(item, tuple) else item for key, item in value.items()}
    assert queue.decode(queue.encode(value)) == expected


def test_exception_of_a_failed_job_is_encoded_as_text():
    """Nothing is pickled."""
    assert queue.decode(queue.encode({"r": ValueError("no")})) == {"r": "ValueError('no')"}


def test_payload_is_msgpack_with_a_time_in_milliseconds():
    payload = msgspec.msgpack.decode(JOBS[0].payload(1_750_000_000.5))
    assert (payload["f"], payload["a"], payload["et"]) == (
        "terminate",
        ["abc", RECORD.incarnation, 1],
        1_750_000_000_500,
    )
