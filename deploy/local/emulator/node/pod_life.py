"""One Pod's life on the node, from the scheduler to the end of its grace, as a sequence of waits and statuses."""

import asyncio

from deploy.local.emulator.base.faults import POD_KINDS, Rule, Target
from deploy.local.emulator.base.identities import container_id
from deploy.local.emulator.base.statuses import Object
from deploy.local.emulator.base.times import now
from deploy.local.emulator.node import troubles
from deploy.local.emulator.node.node import NAME, Node
from deploy.local.emulator.node.pod_status import ContainerView, first_view, render, scheduled, unschedulable
from deploy.local.emulator.node.scheduling import why_unschedulable
from deploy.local.emulator.storage.kinds import PODS
from deploy.local.emulator.storage.objects import Stored

SLOW_SECONDS = 30.0  # what a slow start takes, unless its rule says
RETRY_SECONDS = 0.2  # how often the scheduler looks again at a Pod that fits nowhere


class PodGone(Exception):
    """The Pod was removed while its node was still busy with it."""


class PodLife:
    """Everything the scheduler and the kubelet do for one Pod."""

    def __init__(self, node: Node, pod: Stored) -> None:
        self.node = node
        self.key, self.uid = pod.key, pod.uid
        self.rule: Rule | None = None
        self.view = first_view(pod.body["spec"], node.options.node_address, now())

    @property
    def pod(self) -> Stored:
        pod = self.node.store.get(PODS, *self.key)
        if pod is None or pod.uid != self.uid:
            raise PodGone
        return pod

    @property
    def spec(self) -> Object:
        spec: Object = self.pod.body["spec"]
        return spec

    def publish(self) -> None:
        pod = self.pod
        self.node.store.put(PODS, render(pod.body, self.view, now()))

    def troubled(self, *kinds: str) -> bool:
        """Is one of these faults upon the Pod, and its rule still in force?"""
        return self.rule is not None and self.rule.kind in kinds and self.rule in self.node.faults.rules

    def rule_seconds(self, default: float) -> float:
        return default if self.rule is None or self.rule.seconds is None else self.rule.seconds

    @property
    def exit_code(self) -> int:
        return 1 if self.rule is None else self.rule.exit_code

    async def run(self) -> None:
        try:
            await self._live()
        except PodGone:
            return

    async def _live(self) -> None:
        pod = self.pod
        target = Target(resource="pods", namespace=pod.namespace, name=pod.name, labels=pod.labels)
        self.rule = self.node.faults.strike(POD_KINDS, target)
        await self._schedule()
        deadline = self.spec.get("activeDeadlineSeconds")
        try:
            async with asyncio.timeout(deadline):
                await self._work()
                if deadline is not None:
                    await asyncio.Event().wait()
        except TimeoutError:
            troubles.exceed_deadline(self)

    async def _schedule(self) -> None:
        await asyncio.sleep(self.node.options.schedule_seconds)
        while (why := why_unschedulable(self.pod, self.node.store, forced=self.troubled("unschedulable"))) is not None:
            self._stay_unscheduled(why)
            await asyncio.sleep(RETRY_SECONDS)
        pod = self.pod
        if "nodeName" not in pod.body["spec"]:
            self.node.store.put(PODS, scheduled(pod.body, NAME, now()))
            self.node.recorder.scheduler(pod, "Scheduled", f"Successfully assigned {'/'.join(self.key)} to {NAME}")

    def _stay_unscheduled(self, why: str) -> None:
        pod = self.pod
        conditions = pod.body["status"].get("conditions", [])
        if not any(condition.get("message") == why for condition in conditions):
            self.node.store.put(PODS, unschedulable(pod.body, why, now()))
            self.node.recorder.scheduler(pod, "FailedScheduling", why)

    async def _work(self) -> None:
        self.view.start_time = now()
        self.publish()
        await troubles.wait_for_mounts(self)
        usual = self.node.options.start_seconds
        await asyncio.sleep(self.rule_seconds(SLOW_SECONDS) if self.troubled("slow-start") else usual)
        self.view.network = True
        self.publish()
        spec = self.spec
        self.view.ip = self.view.host_ip if spec.get("hostNetwork") else self.node.address()
        await self._initialize(spec.get("initContainers", []))
        await troubles.wait_for_image(self)
        if self.troubled("crash-loop", "out-of-memory"):
            await troubles.crash(self)
        await self._start()

    async def _initialize(self, specs: list[Object]) -> None:
        for spec in specs:
            view = self.view.init[spec["name"]]
            self.start(spec, view)
            if spec.get("restartPolicy") == "Always":
                view.ready = True
                self.publish()
                continue
            self.publish()
            await asyncio.sleep(self.node.options.start_seconds)
            self.stop(view, 0, "Completed")
            view.ready = True
            self.publish()

    async def _start(self) -> None:
        for spec in self.spec["containers"]:
            self.start(spec, self.view.containers[spec["name"]])
        self.node.running.add(self.uid)
        self.view.phase = "Running"
        await self._await_probes()
        await troubles.after_start(self)

    async def _await_probes(self) -> None:
        specs = self.spec["containers"]
        if any("startupProbe" in spec for spec in specs):
            await self._await_probe("startupProbe", "started")
        if self.troubled("never-ready"):
            self.publish()
            await troubles.stay_unready(self)
        await self._await_probe("readinessProbe", "ready")

    async def _await_probe(self, probe: str, passed: str) -> None:
        """Containers without the probe pass at once, the others after the ready seconds."""
        specs = self.spec["containers"]
        for spec in specs:
            setattr(self.view.containers[spec["name"]], passed, probe not in spec)
        self.publish()
        if any(probe in spec for spec in specs):
            await asyncio.sleep(self.node.options.ready_seconds)
        for view in self.view.containers.values():
            setattr(view, passed, True)
        self.publish()

    def start(self, spec: Object, view: ContainerView) -> None:
        """A container starts, with the three Events that say so."""
        if "terminated" in view.state or ("waiting" in view.state and view.last_state):
            view.restarts += 1
        if "terminated" in view.state:
            view.last_state = view.state
        self.node.has(spec["image"])
        view.container_id = container_id(self.node.random)
        view.state, view.started = {"running": {"startedAt": now()}}, True
        present = f'Container image "{spec["image"]}" already present on machine and can be accessed by the pod'
        self.tell("Pulled", present, spec["name"])
        self.tell("Created", "Container created", spec["name"])
        self.tell("Started", "Container started", spec["name"])

    def stop(self, view: ContainerView, code: int, reason: str) -> None:
        started = view.state["running"]["startedAt"]
        ended = {"exitCode": code, "reason": reason, "startedAt": started, "finishedAt": now()}
        view.state = {"terminated": {**ended, "containerID": view.container_id}}
        view.ready = view.started = False

    def tell(self, reason: str, message: str, container: str = "", kind: str = "Normal") -> None:
        self.node.recorder.kubelet(self.pod, reason, message, container, kind)

    def halt(self, code: int, reason: str = "Error") -> None:
        """Every container that runs ends; nothing answers for the Pod any more."""
        for view in self.view.every():
            if view.running:
                self.stop(view, code, reason)
        self.node.running.discard(self.uid)
        self.node.stopped(self.uid)
