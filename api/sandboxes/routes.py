"""The routes of `/api/sandboxes`. They read and write the store only: no request waits for Kubernetes itself."""

import secrets
from http import HTTPStatus
from typing import Annotated, Any

import structlog
from litestar import Request, Response, delete, get, post
from litestar.params import HeaderParameter, PathParameter, QueryParameter

from api.http import openapi
from api.http.etags import etag, matches, matches_incarnation
from api.http.openapi import problems
from api.http.prefer import COMPAT_CREATE_SECONDS, COMPAT_READ_SECONDS, MAX_WAIT_SECONDS, applied, wait_seconds
from api.sandboxes.lookup import record_or_not_found
from api.sandboxes.schemas import Deleted, SandboxList, SandboxResponse, to_response, to_responses
from api.sandboxes.updates import create_or_keep, request_deletion
from api.state.app_state import app_state
from shared import logs
from shared.errors import InvalidRequest, SandboxNotFound, SandboxNotReady
from shared.sandbox import expiry, mounts
from shared.sandbox.record import TERMINAL_STATUSES, Sandbox, Status
from shared.sandbox.request import SANDBOX_ID, read_create
from shared.settings import Settings
from shared.store.indexes import Selection
from shared.store.pagination import START, parse_cursor

log = structlog.get_logger()

POLL_SECONDS = "1"
"""Retry-After of an answer without a URL yet: a Pod takes a second or more."""

DEFAULT_PAGE = 100
"""Sandboxes in a page when only a cursor is given."""

InPath = Annotated[str, PathParameter(pattern=SANDBOX_ID.python_pattern, schema_extra={"pattern": SANDBOX_ID.pattern})]
Prefer = Annotated[
    str | None,
    HeaderParameter(
        name="Prefer", description=f"`wait=N`: hold the answer up to N seconds, at most {MAX_WAIT_SECONDS}"
    ),
]


@post(
    "/sandboxes",
    status_code=HTTPStatus.ACCEPTED,
    operation_class=openapi.Create,
    responses={
        200: openapi.response("the sandbox that the id has already, or with its URL"),
        **problems(400, 404, 413),
    },
)
async def create(
    request: Request[Any, Any, Any],
    prefer: Prefer = None,
) -> Response[SandboxResponse]:
    """Make a sandbox, or name the one that this id already has.

    Answers at once, 202 and perhaps no URL yet: poll `Location`, or wait with `Prefer: wait=N`.
    """
    state = app_state(request)
    settings, store = state.settings, state.store
    asked = read_create(await request.body())
    spec = asked.spec()
    mounts.check_mounts(spec.extra_mounts, settings)
    expiry.check_expiry(spec, settings)
    sandbox_id = asked.sandbox_id or secrets.token_hex(8)
    mutate = create_or_keep(sandbox_id, spec, settings, now=store.now())
    record, written = await state.sync_gate.create_or_update(store, sandbox_id, mutate)
    with logs.log_context(sandbox_id=sandbox_id):
        log.info("create accepted" if written else "create found the sandbox there")
    wait = _wait(request, prefer)
    seconds = _wait_budget(wait, COMPAT_CREATE_SECONDS, settings)
    if seconds and not _has_final_url(record):
        record = await state.notifier.wait_for(sandbox_id, _has_final_url, seconds)
    record = await record_or_not_found(sandbox_id, record, state)
    state.usage.record_use(record)
    if settings.deerflow_compat:
        return _with_url(record, {})
    return _created(record, applied(wait))


@get("/sandboxes", responses=problems(400))
async def list_live(
    request: Request[Any, Any, Any],
    status: Annotated[Status | None, QueryParameter(description="only those in this status")] = None,
    user_id: Annotated[str | None, QueryParameter(description="only this user's")] = None,
    thread_id: Annotated[str | None, QueryParameter(description="only this thread's")] = None,
    limit: Annotated[int | None, QueryParameter(ge=1, le=1000, description="a page of so many at most")] = None,
    cursor: Annotated[str | None, QueryParameter(description="`next_cursor` of the page before")] = None,
) -> SandboxList:
    """Sandboxes that are not being deleted, oldest first: all in one answer, or with `limit` in pages.

    A page may be short, or empty, and not be the last: that is the one without `next_cursor`.
    """
    state = app_state(request)
    selection = Selection(status, user_id, thread_id)
    if limit is None and cursor is None:
        page, following = [r for r in await state.store.all() if selection.matches(r)], None
    else:
        after = parse_cursor(cursor) if cursor else START
        page, following = await state.store.page(selection, after, limit or DEFAULT_PAGE)
    await state.sync_gate.require()
    if state.settings.deerflow_compat and status is None:
        page = [record for record in page if record.status not in TERMINAL_STATUSES]
    return SandboxList(await to_responses(page), len(page), str(following) if following else None)


@get(
    "/sandboxes/{sandbox_id:str}",
    responses={304: openapi.empty("nothing newer than `If-None-Match`"), **problems(400, 404)},
)
async def read(
    request: Request[Any, Any, Any],
    sandbox_id: InPath,
    prefer: Prefer = None,
    if_none_match: Annotated[str | None, HeaderParameter(name="If-None-Match", description="an earlier `ETag`")] = None,
) -> Response[SandboxResponse]:
    """One sandbox as last seen.

    With `Prefer: wait=N` as soon as it differs from `If-None-Match` or, without that, as soon as it has its URL.
    """
    state = app_state(request)
    settings = state.settings
    record = await state.store.get(sandbox_id)
    wait = _wait(request, prefer)
    seconds = _wait_budget(wait, COMPAT_READ_SECONDS, settings)

    def enough(current: Sandbox | None) -> bool:
        if settings.deerflow_compat and current is not None:
            return current.status is not Status.PENDING and _has_final_url(current)
        if if_none_match is None or current is None:
            return _has_final_url(current)
        return current.status is Status.TERMINATING or not matches(if_none_match, current)

    if seconds and not enough(record):
        record = await state.notifier.wait_for(sandbox_id, enough, seconds)
    record = await record_or_not_found(sandbox_id, record, state)
    state.usage.record_use(record)
    if settings.deerflow_compat:
        _raise_for_compat_status(record)
        return _with_url(record, applied(wait))
    headers = {"ETag": etag(record), **applied(wait)}
    if matches(if_none_match, record):
        return Response(None, status_code=HTTPStatus.NOT_MODIFIED, headers=headers)  # type: ignore[arg-type]
    return Response(to_response(record), headers=headers)


@delete("/sandboxes/{sandbox_id:str}", status_code=HTTPStatus.OK, responses=problems(400, 412))
async def destroy(
    request: Request[Any, Any, Any],
    sandbox_id: InPath,
    generation: Annotated[int | None, QueryParameter(ge=1, description="the life meant")] = None,
    prefer: Prefer = None,
    if_match: Annotated[
        str | None, HeaderParameter(name="If-Match", description="`ETag` of the life that is meant")
    ] = None,
) -> Response[Deleted]:
    """End a sandbox. Answers at once, and the same whether it is there, already going, or was never there."""

    if generation is None and "generation" in request.query_params:  # Litestar reads `null` as if it were not there
        raise InvalidRequest("generation: expected a whole number from 1", field="generation")

    def is_meant(record: Sandbox) -> bool:
        return generation in {None, record.generation} and (if_match is None or matches_incarnation(if_match, record))

    state = app_state(request)
    ending, written = await state.store.update(sandbox_id, request_deletion(is_meant))
    if written:
        with logs.log_context(sandbox_id=sandbox_id):
            log.info("delete accepted")
    if ending is None:
        await state.sync_gate.require()
    wait = _wait(request, prefer)
    if wait and ending is not None:
        await state.notifier.wait_for(sandbox_id, lambda r: r is None or r.incarnation != ending.incarnation, wait)
    return Response(Deleted(sandbox_id), headers=applied(wait))


def _wait(request: Request[Any, Any, Any], prefer: str | None) -> int | None:
    """The wait asked for, in whichever of the header's lines: of several, `prefer` is the last."""
    return None if prefer is None else wait_seconds(", ".join(request.headers.getall("Prefer", [])))


def _wait_budget(wait: int | None, compat: float, settings: Settings) -> float:
    """Seconds to hold the answer: what was asked for or, in compat mode, what today's client bears."""
    if wait is not None:
        return wait
    return compat if settings.deerflow_compat else 0


def _has_final_url(record: Sandbox | None) -> bool:
    """Nothing to wait for: its Service is made, so that its URL is one, or it will have none."""
    return record is None or record.is_provisioned or not record.is_active


def _raise_for_compat_status(record: Sandbox) -> None:
    """To today's client 200 with a status other than Running means "delete it", 404 "make a new one", 503 "keep it"."""
    if record.status in {Status.PENDING, Status.UNKNOWN}:
        raise SandboxNotReady(f"Sandbox {record.id} is {record.status}. {record.message}".strip())
    if record.status in TERMINAL_STATUSES:
        raise SandboxNotFound(
            f"Sandbox {record.id} is over: {record.reason} {record.message}", status=record.status.value
        )


def _with_url(record: Sandbox, headers: dict[str, str]) -> Response[SandboxResponse]:
    """For today's client: a 2xx has a URL. Raises SandboxNotReady."""
    if not record.is_provisioned or record.status in TERMINAL_STATUSES:
        raise SandboxNotReady(f"Sandbox {record.id} is {record.status} and has no URL. {record.message}".strip())
    return Response(to_response(record), status_code=HTTPStatus.OK, headers={"ETag": etag(record), **headers})


def _created(record: Sandbox, headers: dict[str, str]) -> Response[SandboxResponse]:
    headers = {"Location": f"/api/sandboxes/{record.id}", "ETag": etag(record), **headers}
    pending = record.status is Status.PENDING
    if pending and not record.is_provisioned:
        headers["Retry-After"] = POLL_SECONDS
    status = HTTPStatus.ACCEPTED if pending else HTTPStatus.OK
    return Response(to_response(record), status_code=status, headers=headers)
