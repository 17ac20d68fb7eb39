"""The kubelet: starts, terminates and drops Pods as the changes of the store require."""

import asyncio
import logging
from collections.abc import Coroutine

from deploy.local.emulator.node import pod_lifecycle
from deploy.local.emulator.node.node import Node
from deploy.local.emulator.node.pod_runtime import PodRuntime
from deploy.local.emulator.storage.kinds import PODS
from deploy.local.emulator.storage.objects import Change, StoredObject

_log = logging.getLogger(__name__)


class Kubelet:
    """Runs at most one task for each Pod: its lifecycle, or its termination."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._pods: dict[str, PodRuntime] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def on_change(self, change: Change) -> None:
        if change.last.kind is not PODS:
            return
        if change.before is None and change.after is not None:
            self._start(change.after)
        elif change.after is None:
            self._drop(change.last.uid)
        elif change.after.is_terminating and _is_grace_changed(change):
            self._set_task(change.last.uid, pod_lifecycle.terminate(self._pods[change.last.uid]))

    def is_running(self, uid: str) -> bool:
        return uid in self._node.running_pods

    def close(self) -> None:
        for uid in list(self._pods):
            self._drop(uid)

    def _start(self, stored: StoredObject) -> None:
        pod = self._pods[stored.uid] = PodRuntime(self._node, stored)
        self._set_task(stored.uid, pod_lifecycle.run(pod))

    def _drop(self, uid: str) -> None:
        self._pods.pop(uid, None)
        self._node.running_pods.discard(uid)
        task = self._tasks.pop(uid, None)
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    def _set_task(self, uid: str, work: Coroutine[None, None, None]) -> None:
        if (old := self._tasks.get(uid)) is not None:
            old.cancel()
        task = self._tasks[uid] = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(_log_error)


def _is_grace_changed(change: Change) -> bool:
    """Return True if the Pod began to terminate, or its grace got shorter. Grace 0 is the removal itself."""
    grace = change.last.metadata["deletionGracePeriodSeconds"]
    before = change.before.metadata.get("deletionGracePeriodSeconds") if change.before is not None else None
    return bool(grace) and grace != before


def _log_error(task: asyncio.Task[None]) -> None:
    """Log a defect of the emulator at once, not when the task is collected."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("task of a Pod failed", exc_info=error)
