"""The routes of `/api/sandboxes`. They read and write the store only: no request waits for Kubernetes."""

import secrets
from http import HTTPStatus
from typing import Any

import structlog
from litestar import Request, Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from api.messages import Deleted, SandboxAnswer, SandboxList, answer, read_create, read_id
from shared import logs
from shared.addresses import addressed
from shared.errors import SandboxNotFound
from shared.queue import Job, Work
from shared.sandbox import Sandbox, Spec, Status, accepted, another_attempt, next_life, terminating
from shared.settings import Settings
from shared.store import Change, Move, Store

log = structlog.get_logger()

POLL_SECONDS = "1"
"""Retry-After of an answer without a URL yet: a Pod takes a second or more."""


@post("/sandboxes")
async def create(
    request: Request[Any, Any, Any], store: NamedDependency[Store], settings: NamedDependency[Settings]
) -> Response[SandboxAnswer]:
    """Make a sandbox, or name the one that this id already has. Answers at once; poll the `Location` for its URL."""
    asked = read_create(await request.body())
    sandbox_id = asked.sandbox_id or secrets.token_hex(8)
    move = wanted(sandbox_id, asked.spec(), settings, now=store.now())
    outcome = await store.change(sandbox_id, move, believed=None)
    assert outcome.record is not None  # noqa: S101 - `wanted` leaves a record in every case
    with logs.about(sandbox_id=sandbox_id, generation=outcome.record.generation):
        log.info("create accepted" if outcome.written else "create found the existing sandbox")
    return _created(outcome.record)


@get("/sandboxes")
async def list_live(store: NamedDependency[Store]) -> SandboxList:
    """All sandboxes that are not being deleted, oldest first."""
    live = [answer(record) for record in await store.all() if record.status is not Status.TERMINATING]
    return SandboxList(live, len(live))


@get("/sandboxes/{sandbox_id:str}")
async def read(sandbox_id: FromPath[str], store: NamedDependency[Store]) -> SandboxAnswer:
    record = await store.get(read_id(sandbox_id))
    if record is None:
        raise SandboxNotFound(f"There is no sandbox {sandbox_id}.")
    if record.status is Status.TERMINATING:
        raise SandboxNotFound(f"Sandbox {sandbox_id} is being deleted.", status=Status.TERMINATING.value)
    return answer(record)


@delete("/sandboxes/{sandbox_id:str}", status_code=HTTPStatus.OK)
async def destroy(sandbox_id: FromPath[str], store: NamedDependency[Store]) -> Deleted:
    """End a sandbox. Answers at once and the same whether it is there, already going, or was never there."""
    outcome = await store.change(read_id(sandbox_id), unwanted)
    if outcome.written:
        with logs.about(sandbox_id=sandbox_id):
            log.info("delete accepted")
    return Deleted(sandbox_id)


def wanted(sandbox_id: str, spec: Spec, settings: Settings, *, now: float) -> Move:
    """The move of a create: a first life, the life there is, or the next one when the last is over."""

    def move(current: Sandbox | None) -> Change | None:
        if current is None:
            record = addressed(accepted(sandbox_id, spec, cluster=settings.cluster_name, now=now), settings)
            return Change(record, (Job.of(Work.PROVISION, record),))
        if current.wants_pod:
            return None
        record = addressed(next_life(current, spec, now=now), settings)
        # A life that is being deleted has its job already; one that ended by itself may have left things behind.
        leftovers = () if current.status is Status.TERMINATING else (Job.of(Work.TERMINATE, another_attempt(current)),)
        return Change(record, (*leftovers, Job.of(Work.PROVISION, record)))

    return move


def unwanted(current: Sandbox | None) -> Change | None:
    """The move of a delete."""
    if current is None or current.status is Status.TERMINATING:
        return None
    record = another_attempt(terminating(current))
    return Change(record, (Job.of(Work.TERMINATE, record),))


def _created(record: Sandbox) -> Response[SandboxAnswer]:
    headers = {"Location": f"/api/sandboxes/{record.id}"}
    pending = record.status is Status.PENDING
    if pending:
        headers["Retry-After"] = POLL_SECONDS
    status = HTTPStatus.ACCEPTED if pending else HTTPStatus.OK
    return Response(answer(record), status_code=status, headers=headers)
