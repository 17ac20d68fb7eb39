"""HTTP: who may ask, what a path means, which fault strikes, and the answer."""

import asyncio
from typing import Any

import msgspec
from aiohttp import web

from deploy.local.emulator.base.faults import REQUEST_KINDS, Rule
from deploy.local.emulator.base.faults import Target as FaultTarget
from deploy.local.emulator.base.statuses import TOO_MANY_REQUESTS, ApiError, bad_request, too_large, unauthorized
from deploy.local.emulator.http import bodies, control, creation, discovery, lists, updates
from deploy.local.emulator.http.request_info import Query, Target, parse
from deploy.local.emulator.http.watch_streams import WatchStream
from deploy.local.emulator.lifecycle import deletion
from deploy.local.emulator.lifecycle.cluster import Cluster
from deploy.local.emulator.storage import paging
from deploy.local.emulator.storage.objects import Stored

BODY_MAX = 3 * 1024 * 1024  # bytes, the real server's limit
_TOO_MANY = "Too many requests, please try again later.\n"
_OPEN = ("/version", *discovery.HEALTH)
_CREATED = 201
_WORDS = {
    500: ("InternalError", "Internal error occurred: an emulated fault"),
    503: ("ServiceUnavailable", "the server is currently unable to handle the request"),
    504: ("Timeout", "Timeout: request did not complete within requested timeout - context deadline exceeded"),
    403: ("Forbidden", "forbidden: an emulated fault"),
    409: ("Conflict", "Operation cannot be fulfilled: an emulated fault"),
}


class Reset(Exception):
    """The connection is to be cut without an answer."""


class Server:
    """Answers for one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._authorization = f"Bearer {cluster.token}"

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self._answer(request)
        except ApiError as error:
            return _refusal(error)
        except web.HTTPRequestEntityTooLarge:
            return _refusal(too_large(BODY_MAX))
        except Reset:
            if request.transport is not None:
                request.transport.abort()
            return web.Response()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        path, authorization = request.path, request.headers.get("Authorization")
        if authorization != self._authorization and (authorization is not None or path not in _OPEN):
            raise unauthorized()
        if path.startswith(control.PREFIX):
            return await self._control(request)
        target = parse(path)
        if target is None:
            return await self._other(request)
        query = Query(request.query_string)
        verb = target.verb(request.method, watch=query.flag("watch"))
        if "dryRun" in query.given:
            raise bad_request("the emulator does not know dryRun")
        self._cluster.faults.calls[f"{verb} {target.kind.resource}"] += 1
        return await self._resource(request, target, query, verb)

    async def _resource(self, request: web.BaseRequest, target: Target, query: Query, verb: str) -> web.StreamResponse:
        body = await request.read()
        asked = _fault_target(target, verb, body)
        await self._misbehave(asked, after=False)
        if verb == "watch":
            return await WatchStream(self._cluster, request, target, query).serve()
        response = await self._perform(request, target, query, verb, body)
        await self._misbehave(asked, after=True)
        return response

    async def _perform(
        self, request: web.BaseRequest, target: Target, query: Query, verb: str, body: bytes
    ) -> web.Response:
        kind, content_type = target.kind, request.headers.get("Content-Type", "")
        if verb == "list":
            return _json(await lists.list_objects(self._cluster, target, query))
        if verb == "create":
            given = bodies.read(kind, body, content_type)
            return _json(creation.create(self._cluster, kind, target.namespace, given).document(), _CREATED)
        if verb == "deletecollection":
            return self._delete_all(target, query, body)
        if verb == "delete":
            options = deletion.read_options(body, query.given)
            return _deleted(self._cluster.delete(kind, target.namespace, target.name, options))
        stored = updates.find(self._cluster, kind, target.namespace, target.name)
        if verb == "patch":
            stored = updates.patch(self._cluster, kind, stored, body, content_type, status=target.status)
        elif verb == "update":
            given = bodies.read(kind, body, content_type)
            stored = updates.replace(self._cluster, kind, stored, given, status=target.status)
        return _json(stored.document())

    def _delete_all(self, target: Target, query: Query, body: bytes) -> web.Response:
        options = deletion.read_options(body, query.given)
        found = paging.select(self._cluster.store.of(target.kind), query.selection(target))
        gone = [self._cluster.delete(target.kind, *stored.key, options) for stored in found]
        metadata = {"resourceVersion": str(self._cluster.store.version)}
        return _json(lists.list_body(target.kind, metadata, gone))

    async def _misbehave(self, target: FaultTarget, *, after: bool) -> None:
        rule = self._cluster.faults.strike(REQUEST_KINDS, target, after=after)
        if rule is None:
            return
        if rule.kind == "delay":
            await asyncio.sleep(rule.seconds or 0)
            return
        if rule.kind == "error":
            raise _fault_error(rule)
        raise Reset

    async def _control(self, request: web.BaseRequest) -> web.Response:
        answer = control.answer(self._cluster, request.method, request.path, await request.read())
        return _no_such_path() if answer is None else _json(msgspec.json.encode(answer))

    async def _other(self, request: web.BaseRequest) -> web.Response:
        await self._misbehave(FaultTarget(verb=request.method.lower()), after=False)
        if request.path in discovery.HEALTH:
            return web.Response(text="ok")
        if request.path == discovery.ACCESS_REVIEWS and request.method == "POST":
            review = discovery.review_access(await request.read(), self._cluster.faults)
            return _json(msgspec.json.encode(review), _CREATED)
        document = discovery.DOCUMENTS.get(request.path.rstrip("/"))
        return _no_such_path() if document is None else _json(msgspec.json.encode(document))


def _fault_target(target: Target, verb: str, body: bytes) -> FaultTarget:
    name = target.name
    if verb == "create":
        try:
            metadata = msgspec.json.decode(body, type=dict[str, Any]).get("metadata")
        except msgspec.DecodeError:
            metadata = None
        name = str(metadata.get("name", "")) if isinstance(metadata, dict) else ""
    return FaultTarget(verb, target.kind.resource, target.namespace, name)


def _fault_error(rule: Rule) -> ApiError:
    reason, message = _WORDS.get(rule.status, ("", "an emulated fault"))
    details = {} if rule.retry_after is None else {"retryAfterSeconds": rule.retry_after}
    return ApiError(rule.status, rule.reason or reason, rule.message or message, details)


def _json(body: bytes, code: int = 200) -> web.Response:
    return web.Response(body=body, status=code, content_type="application/json")


def _refusal(error: ApiError) -> web.Response:
    if error.code == TOO_MANY_REQUESTS:
        response = web.Response(text=_TOO_MANY, status=error.code)  # priority and fairness answers in plain text
    else:
        response = _json(msgspec.json.encode(error.body()), error.code)
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(error.retry_after)
    return response


def _deleted(stored: Stored) -> web.Response:
    if stored.kind.returns_deleted:
        return _json(stored.document())
    details = {"name": stored.name, "kind": stored.kind.resource, "uid": stored.uid}
    body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
    return _json(msgspec.json.encode(body))


def _no_such_path() -> web.Response:
    return web.Response(text="404 page not found\n", status=404)
