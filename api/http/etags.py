"""Entity tags of a sandbox: its incarnation, and the revision of that incarnation."""

from shared.sandbox.record import Sandbox


def etag(record: Sandbox) -> str:
    return f'"{record.incarnation}.{record.revision}"'


def matches(header: str | None, record: Sandbox) -> bool:
    """Return True if the `If-None-Match` header contains the tag of this revision.

    The comparison is weak, as RFC 9110 requires for this header.
    """
    return header is not None and (header.strip() == "*" or etag(record) in _tags(header))


def matches_incarnation(header: str, record: Sandbox) -> bool:
    """Return True if the `If-Match` header of a delete contains a tag of this incarnation.

    Any revision matches: a caller that deletes a sandbox does so whether or not the sandbox became ready meanwhile.
    """
    incarnations = {tag.strip('"').rpartition(".")[0] for tag in _tags(header)}
    return header.strip() == "*" or record.incarnation in incarnations


def _tags(header: str) -> set[str]:
    return {part.strip().removeprefix("W/") for part in header.split(",")}
