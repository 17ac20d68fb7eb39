"""Patches: JSON merge patch (RFC 7386) and JSON patch (RFC 6902).

A strategic merge patch is applied as a merge patch. Both agree for labels, annotations and single values. Lists differ:
the emulator replaces the whole list; the real server merges it by key.
"""

from typing import Any

import msgspec

from deploy.local.emulator.base.statuses import Object, bad_request, unsupported_media_type

_MERGE = ("application/merge-patch+json", "application/strategic-merge-patch+json")
_JSON = "application/json-patch+json"


def apply(body: Object, patch: bytes, content_type: str) -> Object:
    media_type = content_type.partition(";")[0].strip()
    if media_type not in {*_MERGE, _JSON}:
        raise unsupported_media_type(", ".join([_JSON, *_MERGE]))
    try:
        decoded = msgspec.json.decode(patch)
    except msgspec.DecodeError as error:
        raise bad_request(f"error decoding patch: {error}") from error
    if media_type == _JSON:
        return _apply_json_patch(body, decoded)
    if not isinstance(decoded, dict):
        raise bad_request("error decoding patch: it is not an object")
    merged: Object = _merge(body, decoded)
    return merged


def _merge(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merge(merged.get(key), value)
    return merged


def _apply_json_patch(body: Object, operations: Any) -> Object:
    patched: Object = msgspec.json.decode(msgspec.json.encode(body))  # a copy, which operations change in place
    try:
        for operation in operations:
            _apply_step(patched, operation)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise bad_request(f"the server rejected our request due to an error in our request: {error!r}") from error
    return patched


def _apply_step(body: Object, operation: Object) -> None:
    *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
    container: Any = body
    for part in parents:
        container = container[int(part) if isinstance(container, list) else part]
    if isinstance(container, list):
        _apply_step_to_list(container, last, operation)
    elif operation["op"] == "remove":
        del container[last]
    elif operation["op"] == "test":
        _test(container.get(last), operation["value"])
    elif operation["op"] == "add" or last in container:
        container[last] = operation["value"]
    else:
        raise KeyError(operation["path"])


def _apply_step_to_list(container: list[Any], last: str, operation: Object) -> None:
    index = len(container) if last == "-" else int(last)
    if operation["op"] == "remove":
        del container[index]
    elif operation["op"] == "test":
        _test(container[index], operation["value"])
    elif operation["op"] == "add":
        container.insert(index, operation["value"])
    else:
        container[index] = operation["value"]


def _test(actual: Any, expected: Any) -> None:
    if actual != expected:
        raise ValueError("testing value failed")
