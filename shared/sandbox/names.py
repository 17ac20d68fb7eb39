"""Names of an incarnation's objects in the cluster, and the order of incarnations."""

from shared.sandbox.record import Sandbox


def object_name(sandbox_id: str, incarnation: str) -> str:
    """Return the name of an incarnation's Pod. A retry gets the same name, so it cannot create a second Pod.

    The first incarnation has DeerFlow's own name. A later one adds its generation, because the old Pod may still
    terminate under the first name.
    """
    generation, _, _ = incarnation.partition("-")
    return f"sandbox-{sandbox_id}" if generation == "1" else f"sandbox-{sandbox_id}-{generation}"


def service_name(sandbox_id: str, incarnation: str) -> str:
    return f"{object_name(sandbox_id, incarnation)}-svc"


def is_older_incarnation(incarnation: str, record: Sandbox) -> bool:
    """Return True if `incarnation` came before the incarnation of the record."""
    generation, _, _ = incarnation.partition("-")
    return generation.isdigit() and int(generation) < record.generation
