"""Writes of whole records, as a test prepares them."""

from shared.sandbox.record import Sandbox
from shared.store.store import Store
from shared.store.update import Update


async def put(store: Store, record: Sandbox) -> Sandbox:
    """Write `record` over any record with its id, and return it as stored."""
    result = await store.create_or_update(record.id, lambda _: Update(record))
    assert result.record is not None
    return result.record


async def remove(store: Store, sandbox_id: str) -> None:
    """Delete a record as the worker does after Pod and Service are gone."""
    await store.create_or_update(sandbox_id, lambda record: Update(None) if record else None)
