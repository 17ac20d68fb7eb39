"""The scheduler's one question: does the Pod fit the one node?

Each Pod is weighed alone, not beside those already there: one emulated node takes any number of Pods that fit it.
"""

from decimal import Decimal

from deploy.local.emulator.base.quantities import amount
from deploy.local.emulator.base.statuses import Object
from deploy.local.emulator.node.node import CAPACITY, LABELS
from deploy.local.emulator.storage.kinds import CLAIMS
from deploy.local.emulator.storage.objects import Store, Stored

_NO_ROOM = (
    "0/1 nodes are available: {what}. no new claims to deallocate, preemption: 0/1 nodes are available: "
    "1 Preemption is not helpful for scheduling."
)


def why_unschedulable(pod: Stored, store: Store, *, forced: bool) -> str | None:
    """The scheduler's message, or None when the Pod fits."""
    spec = pod.body["spec"]
    if "nodeName" in spec:
        return None
    for volume in spec.get("volumes", []):
        claim = volume.get("persistentVolumeClaim", {}).get("claimName")
        if claim is not None and store.get(CLAIMS, pod.namespace, claim) is None:
            return f'0/1 nodes are available: persistentvolumeclaim "{claim}" not found. not found'
    lacking = [f"1 Insufficient {name}" for name in ("cpu", "memory") if _too_much(spec, name)]
    lacking = lacking or (["1 Insufficient cpu"] if forced else [])
    if lacking:
        return _NO_ROOM.format(what=", ".join(lacking))
    return _NO_ROOM.format(what="1 node(s) didn't match Pod's node affinity/selector") if _elsewhere(spec) else None


def _too_much(spec: Object, name: str) -> bool:
    asked = [container["resources"].get("requests", {}).get(name, "0") for container in spec["containers"]]
    return sum((amount(text) for text in asked), Decimal(0)) > amount(CAPACITY[name])


def _elsewhere(spec: Object) -> bool:
    return any(LABELS.get(key) != value for key, value in spec.get("nodeSelector", {}).items())
