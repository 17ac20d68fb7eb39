"""The check of the scheduler whether a Pod fits on the only node.

Each Pod is checked alone. The emulated node takes any number of Pods that fit.
"""

from decimal import Decimal

from deploy.local.emulator.base.quantities import parse_quantity
from deploy.local.emulator.base.statuses import Object
from deploy.local.emulator.node.node import CAPACITY, LABELS
from deploy.local.emulator.storage.kinds import VOLUME_CLAIMS
from deploy.local.emulator.storage.objects import Store, StoredObject

_UNAVAILABLE = (
    "0/1 nodes are available: {what}. no new claims to deallocate, preemption: 0/1 nodes are available: "
    "1 Preemption is not helpful for scheduling."
)


def check_fit(pod: StoredObject, store: Store, *, is_forced: bool) -> str | None:
    """Return None if the Pod fits, else the message of the scheduler."""
    spec = pod.body["spec"]
    if "nodeName" in spec:
        return None
    for volume in spec.get("volumes", []):
        claim = volume.get("persistentVolumeClaim", {}).get("claimName")
        if claim is not None and store.get(VOLUME_CLAIMS, pod.namespace, claim) is None:
            return f'0/1 nodes are available: persistentvolumeclaim "{claim}" not found. not found'
    shortages = [f"1 Insufficient {name}" for name in ("cpu", "memory") if _exceeds_capacity(spec, name)]
    shortages = shortages or (["1 Insufficient cpu"] if is_forced else [])
    if not shortages and _needs_other_node(spec):
        shortages = ["1 node(s) didn't match Pod's node affinity/selector"]
    return _UNAVAILABLE.format(what=", ".join(shortages)) if shortages else None


def _exceeds_capacity(spec: Object, name: str) -> bool:
    requests = [container["resources"].get("requests", {}).get(name, "0") for container in spec["containers"]]
    return sum((parse_quantity(text) for text in requests), Decimal(0)) > parse_quantity(CAPACITY[name])


def _needs_other_node(spec: Object) -> bool:
    return any(LABELS.get(key) != value for key, value in spec.get("nodeSelector", {}).items())
