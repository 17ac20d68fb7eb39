"""The state of one Pod on the node, and the operations that change and publish this state."""

from deploy.local.emulator.base.faults import Rule
from deploy.local.emulator.base.ids import container_id
from deploy.local.emulator.base.statuses import Object
from deploy.local.emulator.base.timestamps import now
from deploy.local.emulator.node.node import Node
from deploy.local.emulator.node.pod_status import ContainerView, initial_view, render
from deploy.local.emulator.storage.kinds import PODS
from deploy.local.emulator.storage.objects import StoredObject


class PodGone(Exception):
    """The Pod was removed while its node still ran it."""


class PodRuntime:
    """A Pod, as its node runs it."""

    def __init__(self, node: Node, pod: StoredObject) -> None:
        self.node = node
        self.key, self.uid = pod.key, pod.uid
        self.rule: Rule | None = None
        self.view = initial_view(pod.body["spec"], node.options.node_address, now())

    @property
    def pod(self) -> StoredObject:
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
        """Return True if the Pod has a fault of one of these kinds, and its rule still exists."""
        return self.rule is not None and self.rule.kind in kinds and self.rule in self.node.faults.rules

    def rule_seconds(self, default: float) -> float:
        return default if self.rule is None or self.rule.seconds is None else self.rule.seconds

    @property
    def exit_code(self) -> int:
        return 1 if self.rule is None else self.rule.exit_code

    def start_container(self, spec: Object, view: ContainerView) -> None:
        """Start a container, and record the three Events of a start."""
        if "terminated" in view.state or ("waiting" in view.state and view.last_state):
            view.restarts += 1
        if "terminated" in view.state:
            view.last_state = view.state
        self.node.add_image(spec["image"])
        view.container_id = container_id(self.node.random)
        view.state, view.started = {"running": {"startedAt": now()}}, True
        message = f'Container image "{spec["image"]}" already present on machine and can be accessed by the pod'
        self.record_event("Pulled", message, spec["name"])
        self.record_event("Created", "Container created", spec["name"])
        self.record_event("Started", "Container started", spec["name"])

    def stop_container(self, view: ContainerView, code: int, reason: str) -> None:
        start_time = view.state["running"]["startedAt"]
        termination = {"exitCode": code, "reason": reason, "startedAt": start_time, "finishedAt": now()}
        view.state = {"terminated": {**termination, "containerID": view.container_id}}
        view.ready = view.started = False

    def stop_containers(self, code: int, reason: str = "Error") -> None:
        """Stop all running containers. From now on node ports refuse connections to the Pod."""
        for view in self.view.all_containers():
            if view.is_running:
                self.stop_container(view, code, reason)
        self.node.running_pods.discard(self.uid)
        self.node.on_pod_stopped(self.uid)

    def record_event(self, reason: str, message: str, container: str = "", event_type: str = "Normal") -> None:
        self.node.recorder.record_kubelet(self.pod, reason, message, container, event_type)
