"""Applying patches: JSON merge patch (RFC 7386) and JSON patch (RFC 6902).

A strategic merge patch is applied as a merge patch: for labels, annotations and single values they agree; a list is
replaced as a whole where the real server would merge it by key.
"""

from typing import Any

import msgspec

from deploy.local.emulator.base.statuses import Object, bad_request, unsupported_media_type

_MERGE = ("application/merge-patch+json", "application/strategic-merge-patch+json")
_JSON = "application/json-patch+json"


def apply(body: Object, patch: bytes, content_type: str) -> Object:
    wanted = content_type.partition(";")[0].strip()
    if wanted not in {*_MERGE, _JSON}:
        raise unsupported_media_type(", ".join([_JSON, *_MERGE]))
    try:
        given = msgspec.json.decode(patch)
    except msgspec.DecodeError as error:
        raise bad_request(f"error decoding patch: {error}") from error
    if wanted == _JSON:
        return _json_patched(body, given)
    if not isinstance(given, dict):
        raise bad_request("error decoding patch: it is not an object")
    merged: Object = _merged(body, given)
    return merged


def _merged(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merged(merged.get(key), value)
    return merged


def _json_patched(body: Object, steps: Any) -> Object:
    patched: Object = msgspec.json.decode(msgspec.json.encode(body))  # a copy that may be changed in place
    try:
        for step in steps:
            _step(patched, step)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise bad_request(f"the server rejected our request due to an error in our request: {error!r}") from error
    return patched


def _step(body: Object, step: Object) -> None:
    *way, last = [part.replace("~1", "/").replace("~0", "~") for part in step["path"].split("/")[1:]]
    place: Any = body
    for part in way:
        place = place[int(part) if isinstance(place, list) else part]
    if isinstance(place, list):
        _step_in_list(place, last, step)
    elif step["op"] == "remove":
        del place[last]
    elif step["op"] == "test":
        _test(place.get(last), step["value"])
    elif step["op"] == "add" or last in place:
        place[last] = step["value"]
    else:
        raise KeyError(step["path"])


def _step_in_list(place: list[Any], last: str, step: Object) -> None:
    index = len(place) if last == "-" else int(last)
    if step["op"] == "remove":
        del place[index]
    elif step["op"] == "test":
        _test(place[index], step["value"])
    elif step["op"] == "add":
        place.insert(index, step["value"])
    else:
        place[index] = step["value"]


def _test(there: Any, wanted: Any) -> None:
    if there != wanted:
        raise ValueError("testing value failed")
