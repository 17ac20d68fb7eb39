"""The HTTP server: authentication, routing, faults, and responses."""

import asyncio
from typing import Any

import msgspec
from aiohttp import web

from deploy.local.emulator.base.faults import REQUEST_FAULTS, FaultTarget, Rule
from deploy.local.emulator.base.statuses import TOO_MANY_REQUESTS, ApiError, bad_request, too_large, unauthorized
from deploy.local.emulator.http import bodies, control, creation, discovery, lists, updates
from deploy.local.emulator.http.request_info import Query, RequestInfo, parse_path
from deploy.local.emulator.http.watch_streams import WatchStream
from deploy.local.emulator.lifecycle import deletion
from deploy.local.emulator.lifecycle.cluster import Cluster
from deploy.local.emulator.storage import paging
from deploy.local.emulator.storage.objects import StoredObject

BODY_MAX = 3 * 1024 * 1024  # bytes, as on the real server
_TOO_MANY = "Too many requests, please try again later.\n"
_PUBLIC_PATHS = ("/version", *discovery.HEALTH)
_CREATED = 201
_FAULT_ERRORS = {
    500: ("InternalError", "Internal error occurred: an emulated fault"),
    503: ("ServiceUnavailable", "the server is currently unable to handle the request"),
    504: ("Timeout", "Timeout: request did not complete within requested timeout - context deadline exceeded"),
    403: ("Forbidden", "forbidden: an emulated fault"),
    409: ("Conflict", "Operation cannot be fulfilled: an emulated fault"),
}


class ConnectionReset(Exception):
    """The connection must be cut without a response."""


class Server:
    """Serves the API of one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._authorization = f"Bearer {cluster.token}"

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self._route(request)
        except ApiError as error:
            return _error_response(error)
        except web.HTTPRequestEntityTooLarge:
            return _error_response(too_large(BODY_MAX))
        except ConnectionReset:
            if request.transport is not None:
                request.transport.abort()
            return web.Response()

    async def _route(self, request: web.BaseRequest) -> web.StreamResponse:
        path, authorization = request.path, request.headers.get("Authorization")
        if authorization != self._authorization and (authorization is not None or path not in _PUBLIC_PATHS):
            raise unauthorized()
        if path.startswith(control.PREFIX):
            return await self._handle_control(request)
        info = parse_path(path)
        if info is None:
            return await self._handle_other(request)
        query = Query(request.query_string)
        verb = info.verb(request.method, watch=query.flag("watch"))
        if "dryRun" in query.parameters:
            raise bad_request("dryRun is not emulated; remove the parameter")
        self._cluster.faults.calls[f"{verb} {info.kind.resource}"] += 1
        return await self._handle_resource(request, info, query, verb)

    async def _handle_resource(
        self, request: web.BaseRequest, info: RequestInfo, query: Query, verb: str
    ) -> web.StreamResponse:
        body = await request.read()
        target = _fault_target(info, verb, body)
        await self._apply_fault(target, after=False)
        if verb == "watch":
            return await WatchStream(self._cluster, request, info, query).serve()
        response = await self._perform(request, info, query, verb, body)
        await self._apply_fault(target, after=True)
        return response

    async def _perform(
        self, request: web.BaseRequest, info: RequestInfo, query: Query, verb: str, body: bytes
    ) -> web.Response:
        kind, content_type = info.kind, request.headers.get("Content-Type", "")
        if verb == "list":
            return _json_response(await lists.list_objects(self._cluster, info, query))
        if verb == "create":
            new = bodies.read_object(kind, body, content_type)
            return _json_response(creation.create(self._cluster, kind, info.namespace, new).document(), _CREATED)
        if verb == "deletecollection":
            return self._delete_all(info, query, body)
        if verb == "delete":
            options = deletion.read_options(body, query.parameters)
            return _delete_response(self._cluster.delete(kind, info.namespace, info.name, options))
        stored = updates.get_object(self._cluster, kind, info.namespace, info.name)
        if verb == "patch":
            stored = updates.patch(self._cluster, kind, stored, body, content_type, status=info.status)
        elif verb == "update":
            new = bodies.read_object(kind, body, content_type)
            stored = updates.replace(self._cluster, kind, stored, new, status=info.status)
        return _json_response(stored.document())

    def _delete_all(self, info: RequestInfo, query: Query, body: bytes) -> web.Response:
        options = deletion.read_options(body, query.parameters)
        objects = paging.select_objects(self._cluster.store.collection(info.kind), query.selection(info))
        deleted = [self._cluster.delete(info.kind, *stored.key, options) for stored in objects]
        metadata = {"resourceVersion": str(self._cluster.store.version)}
        return _json_response(lists.encode_list(info.kind, metadata, deleted))

    async def _apply_fault(self, target: FaultTarget, *, after: bool) -> None:
        rule = self._cluster.faults.strike(REQUEST_FAULTS, target, after=after)
        if rule is None:
            return
        if rule.kind == "delay":
            await asyncio.sleep(rule.seconds or 0)
            return
        if rule.kind == "error":
            raise _fault_error(rule)
        raise ConnectionReset

    async def _handle_control(self, request: web.BaseRequest) -> web.Response:
        body = control.handle(self._cluster, request.method, request.path, await request.read())
        return _path_not_found() if body is None else _json_response(msgspec.json.encode(body))

    async def _handle_other(self, request: web.BaseRequest) -> web.Response:
        await self._apply_fault(FaultTarget(verb=request.method.lower()), after=False)
        if request.path in discovery.HEALTH:
            return web.Response(text="ok")
        if request.path == discovery.ACCESS_REVIEWS and request.method == "POST":
            review = discovery.review_access(await request.read(), self._cluster.faults)
            return _json_response(msgspec.json.encode(review), _CREATED)
        document = discovery.DOCUMENTS.get(request.path.rstrip("/"))
        return _path_not_found() if document is None else _json_response(msgspec.json.encode(document))


def _fault_target(info: RequestInfo, verb: str, body: bytes) -> FaultTarget:
    name = info.name
    if verb == "create":
        try:
            metadata = msgspec.json.decode(body, type=dict[str, Any]).get("metadata")
        except msgspec.DecodeError:
            metadata = None
        name = str(metadata.get("name", "")) if isinstance(metadata, dict) else ""
    return FaultTarget(verb, info.kind.resource, info.namespace, name)


def _fault_error(rule: Rule) -> ApiError:
    reason, message = _FAULT_ERRORS.get(rule.status, ("", "an emulated fault"))
    details = {} if rule.retry_after is None else {"retryAfterSeconds": rule.retry_after}
    return ApiError(rule.status, rule.reason or reason, rule.message or message, details)


def _json_response(body: bytes, code: int = 200) -> web.Response:
    return web.Response(body=body, status=code, content_type="application/json")


def _error_response(error: ApiError) -> web.Response:
    if error.code == TOO_MANY_REQUESTS:
        response = web.Response(text=_TOO_MANY, status=error.code)  # plain text, as from API priority and fairness
    else:
        response = _json_response(msgspec.json.encode(error.body()), error.code)
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(error.retry_after)
    return response


def _delete_response(stored: StoredObject) -> web.Response:
    if stored.kind.returns_deleted:
        return _json_response(stored.document())
    details = {"name": stored.name, "kind": stored.kind.resource, "uid": stored.uid}
    body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
    return _json_response(msgspec.json.encode(body))


def _path_not_found() -> web.Response:
    return web.Response(text="404 page not found\n", status=404)
