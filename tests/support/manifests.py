"""Manifests in the form in which they are sent."""

from typing import Any

import msgspec


def as_json(manifest: msgspec.Struct) -> dict[str, Any]:
    """Return the body of the create request, decoded."""
    body: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(manifest))
    return body
