"""The state of one Pod on the node, and the operations that change and publish this state."""

from deploy.local.emulator.base.faults import Rule
from deploy.local.emulator.base.ids import container_id
from deploy.local.emulator.base.statuses import Object
from deploy.local.emulator.base.timestamps import now
from deploy.local.emulator.node.node import Node
from deploy.local.emulator.node.pod_status import ContainerView, first_view, render
from deploy.local.emulator.storage.kinds import PODS
from deploy.local.emulator.storage.objects import Stored


class PodGone(Exception):
    """The Pod was removed while its node was still busy with it."""


class PodRuntime:
    """One Pod as its node runs it."""

    def __init__(self, node: Node, pod: Stored) -> None:
        self.node = node
        self.key, self.uid = pod.key, pod.uid
        self.rule: Rule | None = None
        self.view = first_view(pod.body["spec"], node.options.node_address, now())

    @property
    def pod(self) -> Stored:
        """The Pod as the API server stores it now.

        Raises:
            PodGone: the Pod was removed.
        """
        pod = self.node.store.get(PODS, *self.key)
        if pod is None or pod.uid != self.uid:
            raise PodGone
        return pod

    @property
    def spec(self) -> Object:
        spec: Object = self.pod.body["spec"]
        return spec

    def publish(self) -> None:
        """Write the status that the kubelet reports now."""
        pod = self.pod
        self.node.store.put(PODS, render(pod.body, self.view, now()))

    def has_fault(self, *kinds: str) -> bool:
        """Return True while the Pod's fault is of one of these kinds, and its rule still exists."""
        return self.rule is not None and self.rule.kind in kinds and self.rule in self.node.faults.rules

    def rule_seconds(self, default: float) -> float:
        return default if self.rule is None or self.rule.seconds is None else self.rule.seconds

    @property
    def exit_code(self) -> int:
        return 1 if self.rule is None else self.rule.exit_code

    def start(self, spec: Object, view: ContainerView) -> None:
        """Start a container, and record the three Events of a start."""
        if "terminated" in view.state or ("waiting" in view.state and view.last_state):
            view.restarts += 1
        if "terminated" in view.state:
            view.last_state = view.state
        self.node.has(spec["image"])
        view.container_id = container_id(self.node.random)
        view.state, view.started = {"running": {"startedAt": now()}}, True
        present = f'Container image "{spec["image"]}" already present on machine and can be accessed by the pod'
        self.record_event("Pulled", present, spec["name"])
        self.record_event("Created", "Container created", spec["name"])
        self.record_event("Started", "Container started", spec["name"])

    def stop(self, view: ContainerView, code: int, reason: str) -> None:
        started = view.state["running"]["startedAt"]
        ended = {"exitCode": code, "reason": reason, "startedAt": started, "finishedAt": now()}
        view.state = {"terminated": {**ended, "containerID": view.container_id}}
        view.ready = view.started = False

    def stop_all(self, code: int, reason: str = "Error") -> None:
        """Stop all running containers. From now on node ports refuse connections to the Pod."""
        for view in self.view.every():
            if view.running:
                self.stop(view, code, reason)
        self.node.running.discard(self.uid)
        self.node.stopped(self.uid)

    def record_event(self, reason: str, message: str, container: str = "", kind: str = "Normal") -> None:
        self.node.recorder.kubelet(self.pod, reason, message, container, kind)
