"""Lists: consistent pages, and the state of the collection at a resourceVersion."""

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from deploy.local.emulator.base.statuses import ContinueExpired, bad_request, expired, version_too_large
from deploy.local.emulator.storage.objects import Collection, Key, Store, StoredObject
from deploy.local.emulator.storage.selectors import Selection

_CURRENT = -1  # version in a token without a snapshot: continue with the current objects


class _ContinueToken(msgspec.Struct):
    """The token of `k8s.io/apiserver/pkg/storage/continue.go`. `start` is the key after the last one returned."""

    v: str
    rv: int
    start: str


@dataclass(frozen=True, slots=True)
class Page:
    version: int
    items: list[StoredObject]
    token: str = ""
    remaining: int | None = None  # None: nothing remains, or a selector hides the number, as on the real server


def _continue_key(key: Key, selection: Selection) -> str:
    return f"/{key[1]}" if selection.namespace is not None or not key[0] else f"/{key[0]}/{key[1]}"


def _encode(version: int, start: str) -> str:
    raw = msgspec.json.encode(_ContinueToken("meta.k8s.io/v1", version, start))
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(text: str) -> _ContinueToken:
    unpadded = text.rstrip("=")
    if len(unpadded) % 4 == 1:
        raise _invalid_token(f"illegal base64 data at input byte {len(unpadded) - 1}")
    try:
        token = msgspec.json.decode(
            base64.urlsafe_b64decode(unpadded + "=" * (-len(unpadded) % 4)), type=_ContinueToken
        )
    except (binascii.Error, msgspec.DecodeError) as error:
        raise _invalid_token(str(error)) from error
    if token.v != "meta.k8s.io/v1" or token.rv == 0:
        raise _invalid_token(f'server does not recognize this encoded version "{token.v}"')
    return token


def _invalid_token(detail: str) -> Exception:
    return bad_request(f"invalid continue token: continue key is not valid: {detail}")


def list_page(store: Store, selection: Selection, limit: int, exact_version: int | None) -> Page:
    """Return the first page, of the current objects or of the exact version."""
    collection = store.collection(selection.kind)
    if exact_version is None or exact_version == store.version:
        return _cut(select_objects(collection, selection), selection, limit, store.version)
    if exact_version > store.version:
        raise version_too_large(exact_version, store.version)
    if exact_version < collection.compacted_version:
        raise expired("The resourceVersion for the provided list is too old.")
    return _cut(_at_version(collection, selection, exact_version), selection, limit, exact_version)


def continue_page(store: Store, selection: Selection, limit: int, text: str) -> Page:
    """Return the next page of the same snapshot.

    Raises:
        ContinueExpired: the history of the snapshot is gone. The error has a token that continues without it.
    """
    token = _decode(text)
    collection = store.collection(selection.kind)
    version = store.version if token.rv == _CURRENT else token.rv
    if version < collection.compacted_version:
        raise ContinueExpired(_encode(_CURRENT, token.start))
    if version == store.version:
        objects = select_objects(collection, selection)
    else:
        objects = _at_version(collection, selection, version)
    remaining = [stored for stored in objects if _continue_key(stored.key, selection) >= token.start]
    return _cut(remaining, selection, limit, version)


def _cut(objects: list[StoredObject], selection: Selection, limit: int, version: int) -> Page:
    if not limit or len(objects) <= limit:
        return Page(version, objects)
    first = objects[:limit]
    token = _encode(version, _continue_key(first[-1].key, selection) + "\0")
    return Page(version, first, token, len(objects) - limit if selection.is_unfiltered else None)


def select_objects(collection: Collection, selection: Selection) -> list[StoredObject]:
    """Return the current objects of a selection, in the order of lists."""
    return sorted((s for s in _candidates(collection, selection) if selection.matches(s)), key=_etcd_key)


def _candidates(collection: Collection, selection: Selection) -> Iterable[StoredObject]:
    if (name := selection.exact_name()) is not None and selection.namespace is not None:
        stored = collection.get(selection.namespace, name)
        return [stored] if stored else []
    labels = selection.required_labels()
    if not labels:
        return collection.all(selection.namespace)
    return collection.with_label(min(labels, key=collection.count_with_label))


def _at_version(collection: Collection, selection: Selection, version: int) -> list[StoredObject]:
    """Return the objects at that version: the current ones, with all later changes undone."""
    states = {stored.key: stored for stored in collection.all(selection.namespace)}
    for change in reversed(collection.since(version)):
        states.pop(change.last.key, None)
        if change.before is not None:
            states[change.before.key] = change.before
    return sorted((stored for stored in states.values() if selection.matches(stored)), key=_etcd_key)


def _etcd_key(stored: StoredObject) -> str:
    """Return the key that orders lists, as in etcd: `a-b/x` comes before `a/x`."""
    return f"{stored.key[0]}/{stored.key[1]}"
