"""Routes of `/api/sandboxes`. They read and write only the store: no request waits for a call to Kubernetes."""

import secrets
from http import HTTPStatus
from typing import Annotated, Any

import structlog
from litestar import Request, Response, delete, get, post
from litestar.params import HeaderParameter, QueryParameter

from api.http.etags import etag, matches, matches_incarnation
from api.http.openapi import empty, problems
from api.http.prefer import COMPAT_CREATE_SECONDS, COMPAT_READ_SECONDS, applied, wait_seconds
from api.sandboxes.lookup import record_or_not_found
from api.sandboxes.openapi import Create, response
from api.sandboxes.parameters import Prefer, SandboxIdInPath
from api.sandboxes.schemas import Deleted, SandboxList, SandboxResponse, to_response, to_responses
from api.sandboxes.updates import create_or_keep, request_deletion
from api.state.app_state import app_state
from shared import logs
from shared.errors import InvalidRequest, SandboxNotFound, SandboxNotReady
from shared.sandbox import expiry, mounts
from shared.sandbox.record import TERMINAL_STATUSES, Sandbox, Status
from shared.sandbox.request import read_create
from shared.settings import Settings
from shared.store.indexes import Selection
from shared.store.pagination import START, parse_cursor

log = structlog.get_logger()

POLL_SECONDS = "1"
"""Retry-After of an answer without a URL. A Pod takes a second or more."""

DEFAULT_PAGE = 100
"""Sandboxes in a page if the request has a cursor and no limit."""


@post(
    "/sandboxes",
    status_code=HTTPStatus.ACCEPTED,
    operation_class=Create,
    responses={200: response("the sandbox exists already, or has its URL"), **problems(400, 404, 413)},
)
async def create(request: Request[Any, Any, Any], prefer: Prefer = None) -> Response[SandboxResponse]:
    """Create a sandbox, or return the one that this id already has.

    The answer comes at once, with 202 and often without a URL. Poll `Location`, or wait with `Prefer: wait=N`.
    """
    state = app_state(request)
    settings, store = state.settings, state.store
    payload = read_create(await request.body())
    spec = payload.spec()
    mounts.check_mounts(spec.extra_mounts, settings)
    expiry.check_expiry(spec, settings)
    sandbox_id = payload.sandbox_id or secrets.token_hex(8)
    mutate = create_or_keep(sandbox_id, spec, settings, now=store.now())
    record, written = await state.sync_gate.create_or_update(store, sandbox_id, mutate)
    with logs.log_context(sandbox_id=sandbox_id):
        log.info("create accepted" if written else "create returned the existing sandbox")
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
    status: Annotated[Status | None, QueryParameter(description="only sandboxes in this status")] = None,
    user_id: Annotated[str | None, QueryParameter(description="only sandboxes of this user")] = None,
    thread_id: Annotated[str | None, QueryParameter(description="only sandboxes of this thread")] = None,
    limit: Annotated[int | None, QueryParameter(ge=1, le=1000, description="maximum size of a page")] = None,
    cursor: Annotated[str | None, QueryParameter(description="`next_cursor` of the page before")] = None,
) -> SandboxList:
    """List the sandboxes that are not being deleted, oldest first: all at once or, with `limit`, in pages.

    A page can be short or empty although more pages follow. Only the last page has no `next_cursor`.
    """
    state = app_state(request)
    selection = Selection(status, user_id, thread_id)
    if limit is None and cursor is None:
        page, next_cursor = [r for r in await state.store.all() if selection.matches(r)], None
    else:
        after = parse_cursor(cursor) if cursor else START
        page, next_cursor = await state.store.page(selection, after, limit or DEFAULT_PAGE)
    await state.sync_gate.require()
    if state.settings.deerflow_compat and status is None:
        page = [record for record in page if record.status not in TERMINAL_STATUSES]
    return SandboxList(await to_responses(page), len(page), str(next_cursor) if next_cursor else None)


@get(
    "/sandboxes/{sandbox_id:str}",
    responses={304: empty("the sandbox still has the tag in `If-None-Match`"), **problems(400, 404)},
)
async def read(
    request: Request[Any, Any, Any],
    sandbox_id: SandboxIdInPath,
    prefer: Prefer = None,
    if_none_match: Annotated[str | None, HeaderParameter(name="If-None-Match", description="an earlier `ETag`")] = None,
) -> Response[SandboxResponse]:
    """Return a sandbox as last seen.

    With `Prefer: wait=N` and `If-None-Match`, the answer comes as soon as the tag changes. With `Prefer: wait=N`
    alone, the answer comes as soon as the sandbox has its URL.
    """
    state = app_state(request)
    settings = state.settings
    record = await state.store.get(sandbox_id)
    wait = _wait(request, prefer)
    seconds = _wait_budget(wait, COMPAT_READ_SECONDS, settings)

    def is_enough(current: Sandbox | None) -> bool:
        if settings.deerflow_compat and current is not None:
            return current.status is not Status.PENDING and _has_final_url(current)
        if if_none_match is None or current is None:
            return _has_final_url(current)
        return current.status is Status.TERMINATING or not matches(if_none_match, current)

    if seconds and not is_enough(record):
        record = await state.notifier.wait_for(sandbox_id, is_enough, seconds)
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
    sandbox_id: SandboxIdInPath,
    generation: Annotated[int | None, QueryParameter(ge=1, description="delete only this incarnation")] = None,
    prefer: Prefer = None,
    if_match: Annotated[
        str | None, HeaderParameter(name="If-Match", description="an `ETag`; delete only its incarnation")
    ] = None,
) -> Response[Deleted]:
    """Delete a sandbox.

    The answer comes at once. The answer is the same if the sandbox exists, is being deleted, or never existed.
    """
    if generation is None and "generation" in request.query_params:  # Litestar reads `null` like a missing parameter
        raise InvalidRequest("generation: expected a whole number from 1", field="generation")

    def is_expected(record: Sandbox) -> bool:
        return generation in {None, record.generation} and (if_match is None or matches_incarnation(if_match, record))

    state = app_state(request)
    record, written = await state.store.update(sandbox_id, request_deletion(is_expected))
    if written:
        with logs.log_context(sandbox_id=sandbox_id):
            log.info("delete accepted")
    if record is None:
        await state.sync_gate.require()
    wait = _wait(request, prefer)
    if wait and record is not None:
        incarnation = record.incarnation
        await state.notifier.wait_for(sandbox_id, lambda r: r is None or r.incarnation != incarnation, wait)
    return Response(Deleted(sandbox_id), headers=applied(wait))


def _wait(request: Request[Any, Any, Any], prefer: str | None) -> int | None:
    """Return the requested wait from all `Prefer` lines of the header; `prefer` is only the last line."""
    return None if prefer is None else wait_seconds(", ".join(request.headers.getall("Prefer", [])))


def _wait_budget(wait: int | None, compat_seconds: float, settings: Settings) -> float:
    """Return the seconds to hold the answer: the requested wait or, in compat mode, `compat_seconds`."""
    if wait is not None:
        return wait
    return compat_seconds if settings.deerflow_compat else 0


def _has_final_url(record: Sandbox | None) -> bool:
    """Return True if waiting for the URL makes no sense: the Service exists, or the sandbox will get none."""
    return record is None or record.is_provisioned or not record.is_active


def _raise_for_compat_status(record: Sandbox) -> None:
    """Raise the error that makes today's client do the right thing.

    The client deletes a sandbox on 200 with a status other than Running, creates a new one on 404, and keeps the
    sandbox on 503.

    Raises:
        SandboxNotReady: the sandbox is Pending or Unknown.
        SandboxNotFound: the sandbox has ended.
    """
    if record.status in {Status.PENDING, Status.UNKNOWN}:
        raise SandboxNotReady(f"Sandbox {record.id} is {record.status}. {record.message}".strip())
    if record.status in TERMINAL_STATUSES:
        raise SandboxNotFound(
            f"Sandbox {record.id} has ended: {record.reason} {record.message}", status=record.status.value
        )


def _with_url(record: Sandbox, headers: dict[str, str]) -> Response[SandboxResponse]:
    """Return an answer for today's client, which needs a URL in every 2xx.

    Raises:
        SandboxNotReady: the sandbox has no URL.
    """
    if not record.is_provisioned or record.status in TERMINAL_STATUSES:
        raise SandboxNotReady(f"Sandbox {record.id} is {record.status} and has no URL. {record.message}".strip())
    return Response(to_response(record), status_code=HTTPStatus.OK, headers={"ETag": etag(record), **headers})


def _created(record: Sandbox, headers: dict[str, str]) -> Response[SandboxResponse]:
    headers = {"Location": f"/api/sandboxes/{record.id}", "ETag": etag(record), **headers}
    is_pending = record.status is Status.PENDING
    if is_pending and not record.is_provisioned:
        headers["Retry-After"] = POLL_SECONDS
    status = HTTPStatus.ACCEPTED if is_pending else HTTPStatus.OK
    return Response(to_response(record), status_code=status, headers=headers)
