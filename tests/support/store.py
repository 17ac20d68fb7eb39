"""Writes of whole records, as a test prepares them."""

from shared.sandbox.record import Sandbox
from shared.store.store import Store
from shared.store.update import Mutate, Update
from tests.conftest import created


async def put(store: Store, record: Sandbox) -> Sandbox:
    """Write `record` over any record with its id, and return it as stored."""
    result = await store.create_or_update(record.id, lambda _: Update(record))
    assert result.record is not None
    return result.record


async def remove(store: Store, sandbox_id: str) -> None:
    """Delete a record as the worker does after Pod and Service are gone."""
    await store.create_or_update(sandbox_id, lambda record: Update(None) if record else None)


async def create(store: Store, sandbox_id: str = "abc", user_id: str = "ada") -> Sandbox:
    """Create a sandbox that does not exist yet, with its job, and return its record."""
    result = await store.create_or_update(sandbox_id, created(sandbox_id, store.now(), user_id))
    assert result.written
    assert result.record is not None
    return result.record


async def updated(store: Store, mutate: Mutate, sandbox_id: str = "abc") -> Sandbox:
    """Write an update of a record, and return the new record."""
    result = await store.update(sandbox_id, mutate)
    assert result.written
    assert result.record is not None
    return result.record
