"""The lifecycle of one Pod, from the scheduler to its termination, as a sequence of waits and statuses."""

import asyncio

from deploy.local.emulator.base.faults import POD_FAULTS, FaultTarget
from deploy.local.emulator.base.statuses import Object
from deploy.local.emulator.base.timestamps import now
from deploy.local.emulator.node import pod_faults
from deploy.local.emulator.node.node import NAME
from deploy.local.emulator.node.pod_runtime import PodGone, PodRuntime
from deploy.local.emulator.node.pod_status import KILLED, bind, mark_unschedulable, unknown_termination
from deploy.local.emulator.node.scheduling import check_fit
from deploy.local.emulator.storage.kinds import PODS

SLOW_SECONDS = 30.0
"""Length of a slow start if its rule gives none. Longer than any other start of the emulator."""

RETRY_SECONDS = 0.2
"""Pause of the scheduler between two looks at a Pod that fits on no node."""

_NOTICE_SHARE = 0.1
"""Share of the termination time that passes before the kubelet notices the deletion."""

_SIGTERM_EXIT_CODE = 1
"""Exit code of the product's image after SIGTERM, as recorded in watch-pod-life.json."""


async def run(pod: PodRuntime) -> None:
    """Schedule and start the Pod. Return when nothing is left to change, or when the Pod is removed."""
    try:
        await _schedule_and_run(pod)
    except PodGone:
        return


async def _schedule_and_run(pod: PodRuntime) -> None:
    stored = pod.pod
    target = FaultTarget(resource="pods", namespace=stored.namespace, name=stored.name, labels=stored.labels)
    pod.rule = pod.node.faults.strike(POD_FAULTS, target)
    await _schedule(pod)
    deadline = pod.spec.get("activeDeadlineSeconds")
    try:
        async with asyncio.timeout(deadline):
            await _start(pod)
            if deadline is not None:
                await asyncio.Event().wait()
    except TimeoutError:
        pod_faults.exceed_deadline(pod)


async def _schedule(pod: PodRuntime) -> None:
    await asyncio.sleep(pod.node.options.schedule_seconds)
    while (message := check_fit(pod.pod, pod.node.store, is_forced=pod.has_fault("unschedulable"))) is not None:
        _report_unschedulable(pod, message)
        await asyncio.sleep(RETRY_SECONDS)
    stored = pod.pod
    if "nodeName" not in stored.body["spec"]:
        pod.node.store.put(PODS, bind(stored.body, NAME, now()))
        pod.node.recorder.record_scheduler(stored, "Scheduled", f"Successfully assigned {'/'.join(pod.key)} to {NAME}")


def _report_unschedulable(pod: PodRuntime, message: str) -> None:
    stored = pod.pod
    conditions = stored.body["status"].get("conditions", [])
    if not any(condition.get("message") == message for condition in conditions):
        pod.node.store.put(PODS, mark_unschedulable(stored.body, message, now()))
        pod.node.recorder.record_scheduler(stored, "FailedScheduling", message)


async def _start(pod: PodRuntime) -> None:
    pod.view.start_time = now()
    pod.publish()
    await pod_faults.wait_for_mounts(pod)
    normal_seconds = pod.node.options.start_seconds
    await asyncio.sleep(pod.rule_seconds(SLOW_SECONDS) if pod.has_fault("slow-start") else normal_seconds)
    pod.view.network = True
    pod.publish()
    spec = pod.spec
    pod.view.ip = pod.view.host_ip if spec.get("hostNetwork") else pod.node.next_pod_ip()
    await _run_init_containers(pod, spec.get("initContainers", []))
    await pod_faults.wait_for_image(pod)
    if pod.has_fault("crash-loop", "out-of-memory"):
        await pod_faults.run_crash_loop(pod)
    await _start_containers(pod)


async def _run_init_containers(pod: PodRuntime, specs: list[Object]) -> None:
    for spec in specs:
        view = pod.view.init[spec["name"]]
        pod.start_container(spec, view)
        if spec.get("restartPolicy") == "Always":
            view.ready = True
            pod.publish()
            continue
        pod.publish()
        await asyncio.sleep(pod.node.options.start_seconds)
        pod.stop_container(view, 0, "Completed")
        view.ready = True
        pod.publish()


async def _start_containers(pod: PodRuntime) -> None:
    for spec in pod.spec["containers"]:
        pod.start_container(spec, pod.view.containers[spec["name"]])
    pod.node.running_pods.add(pod.uid)
    pod.view.phase = "Running"
    await _await_probes(pod)
    await pod_faults.run_later_faults(pod)


async def _await_probes(pod: PodRuntime) -> None:
    specs = pod.spec["containers"]
    if any("startupProbe" in spec for spec in specs):
        await _await_probe(pod, "startupProbe", "started")
    if pod.has_fault("never-ready"):
        pod.publish()
        await pod_faults.stay_unready(pod)
    await _await_probe(pod, "readinessProbe", "ready")


async def _await_probe(pod: PodRuntime, probe: str, attribute: str) -> None:
    """Set the attribute of each container: at once without the probe, else after the ready seconds."""
    specs = pod.spec["containers"]
    for spec in specs:
        setattr(pod.view.containers[spec["name"]], attribute, probe not in spec)
    pod.publish()
    if any(probe in spec for spec in specs):
        await asyncio.sleep(pod.node.options.ready_seconds)
    for view in pod.view.containers.values():
        setattr(view, attribute, True)
    pod.publish()


async def terminate(pod: PodRuntime) -> None:
    """Report the deletion, stop the containers, report how they ended, and remove the Pod."""
    try:
        await asyncio.sleep(pod.node.options.termination_seconds * _NOTICE_SHARE)
        pod.publish()
        await _stop_containers(pod)
        pod.view.phase = "Failed"
        pod.view.network = False
        pod.publish()
        await asyncio.sleep(0)
        _remove(pod)
    except PodGone:
        return


async def _stop_containers(pod: PodRuntime) -> None:
    names = [name for name, view in pod.view.containers.items() if view.is_running]
    for name in names:
        pod.record_event("Killing", f"Stopping container {name}", name)
    grace, stop_seconds = pod.pod.metadata["deletionGracePeriodSeconds"], pod.node.options.termination_seconds
    await asyncio.sleep(min(grace, stop_seconds) * (1 - _NOTICE_SHARE) if names else 0)
    pod.stop_containers(KILLED if grace < stop_seconds else _SIGTERM_EXIT_CODE)
    for view in pod.view.all_containers():
        if "waiting" in view.state:
            view.state = unknown_termination()


def _remove(pod: PodRuntime) -> None:
    """Delete the Pod with grace 0, as a kubelet does: one change to grace 0, then the removal.

    Finalizers keep the Pod. The update that removes the last finalizer removes the Pod.
    """
    stored = pod.pod
    metadata = {**stored.metadata, "deletionTimestamp": now(), "deletionGracePeriodSeconds": 0}
    terminating = pod.node.store.put(PODS, {**stored.body, "metadata": metadata})
    if not metadata.get("finalizers"):
        pod.node.store.remove(terminating)
