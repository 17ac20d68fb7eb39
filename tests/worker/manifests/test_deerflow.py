"""Comparison with DeerFlow's own provisioner: Pods and Services are equal except for the list in `differences.py`."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from shared.settings import read_settings
from tests.support.manifests import as_json
from tests.support.records import record_of
from tests.worker.manifests.differences import ABSENT, DIFFERENCES, POD_UID, Difference
from worker import manifests

FILES = sorted((Path(__file__).parent / "deerflow").glob("*.json"))


class ActualDifference(NamedTuple):
    object: str
    path: str
    deerflow: Any
    worker: Any


def compare(deerflow: Any, worker: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the topmost paths at which two documents differ, with both values."""
    if isinstance(deerflow, dict) and isinstance(worker, dict):
        for key in sorted(deerflow.keys() | worker.keys()):
            yield from compare(deerflow.get(key, ABSENT), worker.get(key, ABSENT), f"{path}.{key}".strip("."))
    elif isinstance(deerflow, list) and isinstance(worker, list) and len(deerflow) == len(worker):
        for i, items in enumerate(zip(deerflow, worker, strict=True)):
            yield from compare(*items, f"{path}[{i}]")
    elif deerflow != worker:
        yield path, deerflow, worker


@functools.cache
def differences_of(file: Path) -> tuple[list[ActualDifference], set[Difference]]:
    """Return the differences that are not listed, and the listed ones that exist."""
    deerflow = msgspec.json.decode(file.read_bytes())
    request = deerflow["request"]
    record = record_of(request.pop("sandbox_id"), spec=request, lifetime=7 * 86400.0)
    settings = read_settings(deerflow["settings"])
    documents = {
        "pod": as_json(manifests.pod(record, settings)),
        "service": as_json(manifests.service(record, POD_UID, settings)),
    }
    unlisted: list[ActualDifference] = []
    listed: set[Difference] = set()
    for name, document in documents.items():
        for actual in (ActualDifference(name, *values) for values in compare(deerflow[name], document)):
            matches = [d for d in DIFFERENCES if actual == (d.object, d.path, d.deerflow, d.worker(record))]
            listed.update(matches)
            unlisted += [] if matches else [actual]
    return unlisted, listed


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_pod_and_service_differ_from_deerflow_only_as_listed(file: Path):
    unlisted, _ = differences_of(file)
    assert unlisted == []


@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda difference: f"{difference.object}:{difference.path}")
def test_every_listed_difference_exists(difference: Difference):
    assert any(difference in differences_of(file)[1] for file in FILES)


def test_all_recorded_examples_are_compared():
    assert len(FILES) == 7
