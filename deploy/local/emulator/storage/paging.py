"""Lists: consistent pages, and which state of the world a resourceVersion asks for."""

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from deploy.local.emulator.base.statuses import ContinueExpired, bad_request, expired, version_too_large
from deploy.local.emulator.storage.objects import Collection, Key, Store, Stored
from deploy.local.emulator.storage.selectors import Selection

_NOW = -1  # the version in a token whose snapshot is gone: continue with what is there now


class _Token(msgspec.Struct):
    """`start` is the key after the last one shown; the shape is that of `k8s.io/apiserver/pkg/storage/continue.go`."""

    v: str
    rv: int
    start: str


@dataclass(frozen=True, slots=True)
class Page:
    version: int
    items: list[Stored]
    token: str = ""
    remaining: int | None = None  # None where the real server does not say: nothing left, or a selector given


def _path(key: Key, selection: Selection) -> str:
    return f"/{key[1]}" if selection.namespace is not None or not key[0] else f"/{key[0]}/{key[1]}"


def _encode(version: int, start: str) -> str:
    raw = msgspec.json.encode(_Token("meta.k8s.io/v1", version, start))
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(text: str) -> _Token:
    unpadded = text.rstrip("=")
    if len(unpadded) % 4 == 1:
        raise _bad_token(f"illegal base64 data at input byte {len(unpadded) - 1}")
    try:
        token = msgspec.json.decode(base64.urlsafe_b64decode(unpadded + "=" * (-len(unpadded) % 4)), type=_Token)
    except (binascii.Error, msgspec.DecodeError) as error:
        raise _bad_token(str(error)) from error
    if token.v != "meta.k8s.io/v1" or token.rv == 0:
        raise _bad_token(f'server does not recognize this encoded version "{token.v}"')
    return token


def _bad_token(why: str) -> Exception:
    return bad_request(f"invalid continue token: continue key is not valid: {why}")


def list_page(store: Store, selection: Selection, limit: int, exactly: int | None) -> Page:
    """The first page: of now, or of exactly that version."""
    collection = store.of(selection.kind)
    if exactly is None or exactly == store.version:
        return _cut(_now(collection, selection), selection, limit, store.version)
    if exactly > store.version:
        raise version_too_large(exactly, store.version)
    if exactly < collection.floor:
        raise expired("The resourceVersion for the provided list is too old.")
    return _cut(_then(collection, selection, exactly), selection, limit, exactly)


def continue_page(store: Store, selection: Selection, limit: int, text: str) -> Page:
    """The next page of the same snapshot. Where its history is gone: 410, with a token for going on regardless."""
    token = _decode(text)
    collection = store.of(selection.kind)
    version = store.version if token.rv == _NOW else token.rv
    if version < collection.floor:
        raise ContinueExpired(_encode(_NOW, token.start))
    found = _now(collection, selection) if version == store.version else _then(collection, selection, version)
    rest = [stored for stored in found if _path(stored.key, selection) >= token.start]
    return _cut(rest, selection, limit, version)


def _cut(found: list[Stored], selection: Selection, limit: int, version: int) -> Page:
    if not limit or len(found) <= limit:
        return Page(version, found)
    shown = found[:limit]
    token = _encode(version, _path(shown[-1].key, selection) + "\0")
    return Page(version, shown, token, len(found) - limit if selection.everything else None)


def select(collection: Collection, selection: Selection) -> list[Stored]:
    """By the rarest label asked for where there is one; in the order of lists."""
    return _now(collection, selection)


def _now(collection: Collection, selection: Selection) -> list[Stored]:
    return sorted((s for s in _candidates(collection, selection) if selection.matches(s)), key=_order)


def _candidates(collection: Collection, selection: Selection) -> Iterable[Stored]:
    if (name := selection.only_name()) is not None and selection.namespace is not None:
        found = collection.get(selection.namespace, name)
        return [found] if found else []
    labels = selection.equal_labels()
    if not labels:
        return collection.all(selection.namespace)
    return collection.labelled(min(labels, key=collection.count_labelled))


def _then(collection: Collection, selection: Selection, version: int) -> list[Stored]:
    """The state at that version: what is there now, with every later change undone."""
    states = {stored.key: stored for stored in collection.all(selection.namespace)}
    for change in reversed(collection.since(version)):
        states.pop(change.last.key, None)
        if change.before is not None:
            states[change.before.key] = change.before
    return sorted((stored for stored in states.values() if selection.matches(stored)), key=_order)


def _order(stored: Stored) -> str:
    """As etcd orders its keys: `a-b/x` comes before `a/x`."""
    return f"{stored.key[0]}/{stored.key[1]}"
