"""What a life's objects are called in the cluster, and which life was earlier."""

from shared.sandbox.record import Sandbox


def object_name(sandbox_id: str, incarnation: str) -> str:
    """Name of a life's Pod. A function of the life, so that no retry can make a second one.

    The first life has DeerFlow's own name for it; a later one cannot, for the old Pod may still be terminating.
    """
    generation, _, _ = incarnation.partition("-")
    return f"sandbox-{sandbox_id}" if generation == "1" else f"sandbox-{sandbox_id}-{generation}"


def service_name(sandbox_id: str, incarnation: str) -> str:
    return f"{object_name(sandbox_id, incarnation)}-svc"


def is_older_incarnation(incarnation: str, record: Sandbox) -> bool:
    """Whether `life` came before the record's own."""
    generation, _, _ = incarnation.partition("-")
    return generation.isdigit() and int(generation) < record.generation
