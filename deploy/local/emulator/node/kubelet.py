"""Starts, ends and forgets the lives of Pods as the API's changes say."""

import asyncio
import logging
from collections.abc import Coroutine

from deploy.local.emulator.base.times import now
from deploy.local.emulator.node import troubles
from deploy.local.emulator.node.node import Node
from deploy.local.emulator.node.pod_life import PodGone, PodLife
from deploy.local.emulator.storage.kinds import PODS
from deploy.local.emulator.storage.objects import Change, Stored

_NOTICE_SHARE = 0.1  # of the time a container takes to stop, until the kubelet has seen the deletion
_FAILED_BY_SIGTERM = 1  # what the product's image exits with, see watch-pod-life.json


_log = logging.getLogger(__name__)


class Kubelet:
    """One task a Pod at most: living, then terminating."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._lives: dict[str, PodLife] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def on_change(self, change: Change) -> None:
        if change.last.kind is not PODS:
            return
        if change.before is None and change.after is not None:
            self._begin(change.after)
        elif change.after is None:
            self._forget(change.last.uid)
        elif change.after.terminating and self._grace_changed(change):
            self._set_task(change.last.uid, self._terminate(self._lives[change.last.uid]))

    def running(self, uid: str) -> bool:
        return uid in self._node.running

    def close(self) -> None:
        for uid in list(self._lives):
            self._forget(uid)

    def _begin(self, pod: Stored) -> None:
        life = self._lives[pod.uid] = PodLife(self._node, pod)
        self._set_task(pod.uid, life.run())

    def _forget(self, uid: str) -> None:
        self._lives.pop(uid, None)
        self._node.running.discard(uid)
        task = self._tasks.pop(uid, None)
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    def _set_task(self, uid: str, work: Coroutine[None, None, None]) -> None:
        if (old := self._tasks.get(uid)) is not None:
            old.cancel()
        task = self._tasks[uid] = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(_tell_failure)

    def _grace_changed(self, change: Change) -> bool:
        """Newly terminating, or in more of a hurry; grace 0 is the removal itself."""
        grace = change.last.metadata["deletionGracePeriodSeconds"]
        before = change.before.metadata.get("deletionGracePeriodSeconds") if change.before is not None else None
        return bool(grace) and grace != before

    async def _terminate(self, life: PodLife) -> None:
        """Tells that it has seen the deletion, lets containers stop, reports how they ended, and removes the Pod."""
        try:
            await asyncio.sleep(self._node.options.termination_seconds * _NOTICE_SHARE)
            life.publish()
            await self._stop(life)
            life.view.phase = "Failed"
            life.view.network = False
            life.publish()
            await asyncio.sleep(0)
            self._remove(life)
        except PodGone:
            return

    async def _stop(self, life: PodLife) -> None:
        running = [name for name, view in life.view.containers.items() if view.running]
        for name in running:
            life.tell("Killing", f"Stopping container {name}", name)
        grace, needed = life.pod.metadata["deletionGracePeriodSeconds"], self._node.options.termination_seconds
        await asyncio.sleep(min(grace, needed) * (1 - _NOTICE_SHARE) if running else 0)
        life.halt(troubles.KILLED if grace < needed else _FAILED_BY_SIGTERM)
        for view in life.view.every():
            if "waiting" in view.state:
                view.state = troubles.unknown_end()

    def _remove(self, life: PodLife) -> None:
        """A kubelet's last act is a delete with grace 0: one change that says so, one that is the removal."""
        pod = life.pod
        ending = {**pod.metadata, "deletionTimestamp": now(), "deletionGracePeriodSeconds": 0}
        self._node.store.remove(self._node.store.put(PODS, {**pod.body, "metadata": ending}))


def _tell_failure(task: asyncio.Task[None]) -> None:
    """A life that ends by a mistake of the emulator's own is told at once, not when the task is collected."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("a Pod's life ended by mistake", exc_info=error)
