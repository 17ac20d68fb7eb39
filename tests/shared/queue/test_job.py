from typing import Any

import msgspec
import pytest
from arq.connections import ArqRedis
from arq.constants import health_check_key_suffix
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
    """arq's own worker, which goes when the queue is empty; its jobs note their name, id and arguments."""

    def noting(work: JobKind) -> Any:
        async def note(context: dict[str, Any], *arguments: Any) -> None:
            ran.append((work, context["job_id"], *arguments))

        return func(note, name=work)

    return Worker(
        [noting(work) for work in JobKind],
        redis_pool=redis,
        burst=True,
        poll_delay=0.005,
        keep_result=0,
        handle_signals=False,
        job_serializer=queue.encode,
        job_deserializer=queue.decode,
    )


async def test_arq_runs_our_jobs(valkey: ArqRedis):
    """arq's own worker reads and runs the jobs that a change wrote, each with life and attempt."""
    await write(valkey)
    ran: list[tuple[Any, ...]] = []
    worker = burst(valkey, ran)
    await worker.main()
    assert sorted(ran) == sorted((job.kind, job.id, "abc", RECORD.incarnation, job.attempt) for job in JOBS)
    assert (worker.jobs_complete, worker.jobs_failed, worker.jobs_retried) == (2, 0, 0)


async def test_nothing_stays_behind(valkey: ArqRedis):
    """A job that ran leaves no key behind, so that its id blocks none that follows."""
    await write(valkey)
    await burst(valkey, []).main()
    assert await valkey.keys("arq:*") in ([], [(keys.QUEUE + health_check_key_suffix).encode()])


async def test_jobs_are_arqs_own(valkey: ArqRedis):
    """What a change writes for a job is what arq's `enqueue_job` writes for it: keys, lifetimes and contents.

    Only the place in the queue differs: creates overtake other jobs.
    """
    await write(valkey)
    ours = await written(valkey)
    await valkey.delete(*ours, keys.QUEUE)
    for job in JOBS:
        await valkey.enqueue_job(job.kind, job.sandbox_id, job.incarnation, job.attempt, _job_id=job.id)
    assert ours == await written(valkey)


async def written(redis: ArqRedis) -> dict[str, Any]:
    """Each job's key with its contents, without the times, which are checked for being near each other here."""
    found = {}
    for job_id, score in await redis.zrange(keys.QUEUE, 0, -1, withscores=True):
        key = keys.JOB + job_id.decode()
        contents = queue.decode(await redis.get(key))
        head_starts = {0, queue.CREATE_PRIORITY_SECONDS * 1000}
        assert contents.pop("et") - score in head_starts
        assert queue.EXPIRES_MS - 60_000 < await redis.pttl(key) <= queue.EXPIRES_MS
        found[key] = contents
    assert len(found) == len(await redis.keys("arq:job:*")) == len(JOBS)
    return found


async def test_arq_counts_a_written_job_as_there(valkey: ArqRedis):
    """arq does not enqueue a job again that a change has written: to arq, too, its id is what it is."""
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
def test_ids_differ(jobs: list[Job]):
    """Jobs that differ in work, sandbox, life or attempt differ in their ids."""
    assert len({job.id for job in jobs}) == len(jobs)


@pytest.mark.parametrize(
    "value",
    [{"a": 1}, {"r": None, "s": True}, {"a": ("abc", 2.5, b"x")}, {"f": "provision", "k": {}}],
)
def test_encode(value: dict[str, Any]):
    """What arq hands over is read back as it was, but for tuples, which come back as lists."""
    read = {key: list(item) if isinstance(item, tuple) else item for key, item in value.items()}
    assert queue.decode(queue.encode(value)) == read


def test_encode_an_exception():
    """The exception of a job that failed is written as its text: nothing is pickled."""
    assert queue.decode(queue.encode({"r": ValueError("no")})) == {"r": "ValueError('no')"}


def test_payload_is_msgpack():
    """A job can be read by whoever reads MessagePack; its time is in milliseconds."""
    read = msgspec.msgpack.decode(JOBS[0].payload(1_750_000_000.5))
    assert (read["f"], read["a"], read["et"]) == ("terminate", ["abc", RECORD.incarnation, 1], 1_750_000_000_500)
