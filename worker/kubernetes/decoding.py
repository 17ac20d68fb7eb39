"""Decodes answers of the API server. An object that cannot be decoded is set aside, and the others are returned.

One odd object, which any program with access to the cluster can write, must not hide all others.
"""

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

import msgspec

from worker.kubernetes.errors import NO_ANSWER, NOT_KUBERNETES, KubernetesError
from worker.kubernetes.json_split import members, split
from worker.kubernetes.objects import Kind, ListMeta, ListPage, ObjectMeta, WatchFrame

T = TypeVar("T")

_UNDECODABLE = (ValueError, RecursionError)
"""Exceptions of msgspec: wrong JSON and types, wrong UTF-8, numbers out of range, and too many levels."""


class Unreadable(NamedTuple):
    """An object that cannot be decoded, and the reason. `metadata` has what of them can be decoded."""

    metadata: ObjectMeta
    error: str


class Page(NamedTuple, Generic[Kind]):
    """One page of a list."""

    items: list[Kind]
    unreadable: list[Unreadable]
    metadata: ListMeta


_decode_page = msgspec.json.Decoder(ListPage).decode
_decode_frame = msgspec.json.Decoder(WatchFrame).decode
_decode_metadata = msgspec.json.Decoder(ObjectMeta).decode
_decode_list_meta = msgspec.json.Decoder(ListMeta).decode
_decode_text = msgspec.json.Decoder(str).decode


def decoder(kind: type[T]) -> Callable[[bytes | msgspec.Raw], T]:
    """Return a function that decodes one type. Text of another shape, such as a proxy's page, counts as no answer."""
    decode = msgspec.json.Decoder(kind).decode

    def decode_or_raise(raw: bytes | msgspec.Raw) -> T:
        try:
            return decode(raw)
        except _UNDECODABLE as error:
            raise _not_kubernetes(error) from error

    return decode_or_raise


def object_decoder(kind: type[Kind]) -> Callable[[bytes | msgspec.Raw], Kind | Unreadable]:
    """Return a function that decodes one object of a list or a watch."""
    decode = msgspec.json.Decoder(kind).decode

    def decode_or_describe(raw: bytes | msgspec.Raw) -> Kind | Unreadable:
        try:
            return decode(raw)
        except _UNDECODABLE as error:
            return Unreadable(_readable_metadata(bytes(raw)), str(error))

    return decode_or_describe


def require_uid(decoded: Kind | Unreadable) -> Kind | Unreadable:
    """Return an object without a uid as unreadable: its state could be written to no record."""
    if isinstance(decoded, Unreadable) or decoded.metadata.uid:
        return decoded
    return Unreadable(decoded.metadata, "the object has no uid")


def read_page(raw: bytes, decode: Callable[[bytes | msgspec.Raw], Kind | Unreadable]) -> Page[Kind]:
    """Decode one page of a list.

    Raises:
        KubernetesError: the text is no list of Kubernetes.
    """
    metadata, items = _split_page(raw)
    decoded = [require_uid(decode(item)) for item in items]
    readable = [item for item in decoded if not isinstance(item, Unreadable)]
    return Page(readable, [item for item in decoded if isinstance(item, Unreadable)], metadata)


def read_frame(line: bytes) -> WatchFrame:
    """Decode one line of a watch, but not its object.

    Raises:
        KubernetesError: the text is no line of a watch.
    """
    try:
        return _decode_frame(line)
    except _UNDECODABLE as error:
        try:
            parts = members(line)
            return WatchFrame(type=_decode_text(parts[b"type"]), object=msgspec.Raw(parts[b"object"]))
        except (*_UNDECODABLE, KeyError):
            raise _not_kubernetes(error) from error


def _split_page(raw: bytes) -> tuple[ListMeta, list[bytes | msgspec.Raw]]:
    """Return the metadata and the items of a page. A text that is cut off is refused: it would hide objects."""
    try:
        page = _decode_page(raw)
    except _UNDECODABLE as error:
        try:
            parts = members(raw)
            return _decode_list_meta(parts[b"metadata"]), list(split(parts[b"items"]))
        except (*_UNDECODABLE, KeyError):
            raise _not_kubernetes(error) from error
    return page.metadata, list(page.items)


def _readable_metadata(raw: bytes) -> ObjectMeta:
    """Return the metadata or, if they cannot be decoded as a whole, name and uid."""
    metadata = _members_or_none(raw).get(b"metadata", b"")
    try:
        return _decode_metadata(metadata)
    except _UNDECODABLE:
        fields = _members_or_none(metadata)
        return ObjectMeta(name=_text(fields.get(b"name", b"")), uid=_text(fields.get(b"uid", b"")))


def _members_or_none(raw: bytes) -> dict[bytes, bytes]:
    try:
        return members(raw)
    except ValueError:
        return {}


def _text(raw: bytes) -> str:
    try:
        return _decode_text(raw)
    except _UNDECODABLE:
        return ""


def _not_kubernetes(error: Exception) -> KubernetesError:
    return KubernetesError(NO_ANSWER, NOT_KUBERNETES, f"the answer is not from Kubernetes: {error}")
