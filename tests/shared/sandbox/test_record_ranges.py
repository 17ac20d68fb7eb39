"""Numbers of a record that no sandbox can have: the record is unreadable, and breaks no list of others."""

from typing import Any

import msgspec
import pytest

from shared.errors import RecordUnreadable
from shared.sandbox.record import Sandbox, Timings
from shared.store.reader import decode_record
from tests.support.records import record_of

TIMES = ("created_at", "updated_at", "last_used_at", "deadline", "keep_alive_until", "probing_until", "expired_at")
DURATIONS = ("idle_timeout", "lifetime")
STAGES = msgspec.structs.fields(Timings)


def raw_with(**fields: Any) -> bytes:
    """Return a record in JSON with these fields."""
    return msgspec.json.encode({**msgspec.to_builtins(record_of("abc")), **fields})


@pytest.mark.parametrize("field", TIMES + DURATIONS)
@pytest.mark.parametrize("value", [-1.0, 1e300, 1.8e12])
def test_record_with_impossible_number_is_unreadable(field: str, value: float):
    """Milliseconds are among these. Dates end with the year 9999."""
    with pytest.raises(RecordUnreadable, match=field):
        decode_record(raw_with(**{field: value}))


@pytest.mark.parametrize("stage", [field.name for field in STAGES])
def test_record_with_impossible_stage_is_unreadable(stage: str):
    with pytest.raises(RecordUnreadable, match=stage):
        decode_record(raw_with(timings={stage: 1e300}))


@pytest.mark.parametrize("field", ["idle_timeout_seconds", "lifetime_seconds"])
@pytest.mark.parametrize("value", [0, -1, 10**30])
def test_record_with_impossible_timeout_in_its_spec_is_unreadable(field: str, value: int):
    with pytest.raises(RecordUnreadable, match=field):
        decode_record(raw_with(spec={field: value}))


@pytest.mark.parametrize("field", TIMES + DURATIONS)
def test_record_with_zero_is_readable(field: str):
    record = decode_record(raw_with(**{field: 0.0}))
    assert isinstance(record, Sandbox)
