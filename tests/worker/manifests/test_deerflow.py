"""Our Pods and Services equal those of DeerFlow's provisioner, but for what `differences.py` lists."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from shared.settings import read_settings
from tests.support.records import record_of
from tests.worker.manifests.differences import ABSENT, DIFFERENCES, POD_UID, Difference
from worker import manifests

FILES = sorted((Path(__file__).parent / "deerflow").glob("*.json"))


class Found(NamedTuple):
    object: str
    path: str
    theirs: Any
    ours: Any


def compared(theirs: Any, ours: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The topmost places at which two documents differ."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in sorted(theirs.keys() | ours.keys()):
            yield from compared(theirs.get(key, ABSENT), ours.get(key, ABSENT), f"{path}.{key}".strip("."))
    elif isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        for i, (one, other) in enumerate(zip(theirs, ours, strict=True)):
            yield from compared(one, other, f"{path}[{i}]")
    elif theirs != ours:
        yield path, theirs, ours


def sent(kind: msgspec.Struct) -> Any:
    """The body of the create call."""
    return msgspec.json.decode(msgspec.json.encode(kind))


@functools.cache
def sorted_out(file: Path) -> tuple[list[Found], set[Difference]]:
    """What differs without being meant to, and which of the listed differences there are."""
    deerflow = msgspec.json.decode(file.read_bytes())
    request = deerflow["request"]
    record = record_of(request.pop("sandbox_id"), spec=request, lifetime=7 * 86400.0)
    settings = read_settings(deerflow["settings"])
    ours = {
        "pod": sent(manifests.pod(record, settings)),
        "service": sent(manifests.service(record, POD_UID, settings)),
    }
    unintended, intended = [], set()
    for name, document in ours.items():
        for found in (Found(name, *place) for place in compared(deerflow[name], document)):
            meant = [d for d in DIFFERENCES if found == (d.object, d.path, d.theirs, d.ours(record))]
            intended.update(meant)
            unintended += [] if meant else [found]
    return unintended, intended


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_nothing_differs_but_what_is_meant_to(file: Path):
    """For each of DeerFlow's settings and requests, our Pod and Service are its own but for the listed differences."""
    unintended, _ = sorted_out(file)
    assert unintended == []


@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda difference: f"{difference.object}:{difference.path}")
def test_every_listed_difference_exists(difference: Difference):
    """The list names no difference that is not there, or no longer."""
    assert any(difference in sorted_out(file)[1] for file in FILES)


def test_all_of_deerflows_examples_are_compared():
    """Seven settings and requests were recorded."""
    assert len(FILES) == 7
