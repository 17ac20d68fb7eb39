"""Recordings of a real API server, release 1.36.2."""

from pathlib import Path
from typing import Any

import msgspec

DIRECTORY = Path(__file__).parent.parent / "transcripts"


def exchanges(name: str) -> list[dict[str, Any]]:
    """Return the recorded requests and responses of `{name}.json`."""
    recorded: list[dict[str, Any]] = msgspec.json.decode((DIRECTORY / f"{name}.json").read_bytes())["exchanges"]
    return recorded
