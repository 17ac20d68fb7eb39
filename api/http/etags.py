"""What a caller has seen of a sandbox, as an entity tag: its life, and how often that life has changed since."""

from shared.sandbox.record import Sandbox


def etag(record: Sandbox) -> str:
    return f'"{record.incarnation}.{record.revision}"'


def matches(header: str | None, record: Sandbox) -> bool:
    """`If-None-Match`: whether the caller has this very state already. Weak comparison, as RFC 9110 has it."""
    return header is not None and (header.strip() == "*" or etag(record) in _tags(header))


def matches_incarnation(header: str, record: Sandbox) -> bool:
    """`If-Match` of a delete: whether the caller means this life.

    Its changes since do not matter: who wants a sandbox gone wants it gone whether or not it has become ready.
    """
    incarnations = {tag.strip('"').rpartition(".")[0] for tag in _tags(header)}
    return header.strip() == "*" or record.incarnation in incarnations


def _tags(header: str) -> set[str]:
    return {part.strip().removeprefix("W/") for part in header.split(",")}
