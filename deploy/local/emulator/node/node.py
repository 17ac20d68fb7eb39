"""The only node: the parts that its kubelet and the scheduler share, and its object in the API."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random

from deploy.local.emulator.base import images
from deploy.local.emulator.base.faults import Faults
from deploy.local.emulator.base.ids import uid
from deploy.local.emulator.base.options import Options
from deploy.local.emulator.base.statuses import Object
from deploy.local.emulator.base.timestamps import now
from deploy.local.emulator.node.events import EventRecorder
from deploy.local.emulator.storage.kinds import NODES
from deploy.local.emulator.storage.objects import Store

NAME = "emulated-node-1"
LABELS = {
    "kubernetes.io/hostname": NAME,
    "kubernetes.io/os": "linux",
    "kubernetes.io/arch": "amd64",
    "beta.kubernetes.io/os": "linux",
    "beta.kubernetes.io/arch": "amd64",
}
CAPACITY: Object = {"cpu": "64", "memory": "256Gi", "ephemeral-storage": "1Ti", "pods": "110"}
_ADDRESSES = 250 * 250  # Pods get the addresses of 10.244.0.0/16 in turn


@dataclass(slots=True)
class Node:
    """The parts that all Pods of the node share."""

    store: Store
    recorder: EventRecorder
    faults: Faults
    options: Options
    random: Random
    on_pod_stopped: Callable[[str], None]  # called with the uid when the containers of a Pod ended
    running_pods: set[str] = field(default_factory=set)  # uids of Pods with running containers
    _images: set[str] = field(default_factory=set)
    _addresses: Iterator[int] = field(default_factory=itertools.count)

    def add_image(self, image: str) -> None:
        """Add the image of a started container to the status of the node."""
        reference = images.full_reference(image)
        node = self.store.get(NODES, "", NAME)
        if reference in self._images or node is None:
            return
        self._images.add(reference)
        status = node.body["status"]
        entries = [*status.get("images", []), images.image_status(reference)]
        self.store.put(NODES, {**node.body, "status": {**status, "images": entries}})

    def next_pod_ip(self) -> str:
        number = next(self._addresses) % _ADDRESSES
        return f"10.244.{number // 250}.{number % 250 + 2}"


def node_object(random: Random, address: str) -> Object:
    moment = now()
    ready = {"type": "Ready", "status": "True", "lastHeartbeatTime": moment, "lastTransitionTime": moment}
    ready |= {"reason": "KubeletReady", "message": "kubelet is posting ready status"}
    return {
        "metadata": {
            "name": NAME,
            "uid": uid(random),
            "creationTimestamp": moment,
            "labels": LABELS,
        },
        "spec": {"podCIDR": "10.244.0.0/16", "podCIDRs": ["10.244.0.0/16"]},
        "status": {
            "capacity": CAPACITY,
            "allocatable": CAPACITY,
            "conditions": [ready],
            "addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": NAME}],
            "nodeInfo": {"kubeletVersion": "v1.36.2", "operatingSystem": "linux", "architecture": "amd64"},
        },
    }
