"""Kubernetes Events, as the scheduler and the kubelet write them: one object for what repeats, with a count."""

import itertools
import time
from collections import deque
from random import Random

from deploy.local.emulator.base.ids import uid
from deploy.local.emulator.base.statuses import Object
from deploy.local.emulator.base.timestamps import now, now_micro
from deploy.local.emulator.storage.kinds import EVENTS, NAMESPACES
from deploy.local.emulator.storage.objects import Key, Store, Stored

KEPT_MAX = 20_000  # the real server drops an Event after an hour; this many are more than an hour's worth

_What = tuple[str, str, str, str]  # the Pod's uid, reason, message, and the container or who else says it


class Recorder:
    """Writes Events about Pods."""

    def __init__(self, store: Store, node: str, random: Random) -> None:
        self._store = store
        self._node = node
        self._random = random
        self._known: dict[_What, Key] = {}
        self._order: deque[_What] = deque()
        self._clock = itertools.count(time.time_ns())  # names are times in ns; counting keeps them apart

    def scheduler(self, pod: Stored, reason: str, message: str) -> None:
        good = reason == "Scheduled"
        self._write(
            pod,
            (pod.uid, reason, message, "scheduler"),
            {
                **_about(pod, "", reason, message, "Normal" if good else "Warning"),
                "source": {},
                "firstTimestamp": None,
                "lastTimestamp": None,
                "eventTime": now_micro(),
                "action": "Binding" if good else "Scheduling",
                "reportingComponent": "default-scheduler",
                "reportingInstance": f"default-scheduler-{self._node}",
            },
        )

    def kubelet(self, pod: Stored, reason: str, message: str, container: str = "", kind: str = "Normal") -> None:
        """About one container of the Pod where one is named. What was said before is counted up."""
        known = self._known.get((pod.uid, reason, message, container))
        if known is not None and (event := self._store.get(EVENTS, *known)) is not None:
            self._store.put(EVENTS, {**event.body, "lastTimestamp": now(), "count": event.body["count"] + 1})
            return
        moment, path = now(), f"spec.containers{{{container}}}" if container else ""
        self._write(
            pod,
            (pod.uid, reason, message, container),
            {
                **_about(pod, path, reason, message, kind),
                "source": {"component": "kubelet", "host": self._node},
                "firstTimestamp": moment,
                "lastTimestamp": moment,
                "count": 1,
                "eventTime": None,
                "reportingComponent": "kubelet",
                "reportingInstance": self._node,
            },
        )

    def _write(self, pod: Stored, what: _What, event: Object) -> None:
        """Nothing is written into a namespace that is emptying, as the API server would refuse it."""
        name = f"{pod.name}.{next(self._clock):x}"
        identity = {"uid": uid(self._random), "creationTimestamp": now()}
        metadata = {"name": name, "namespace": pod.namespace, **identity}
        namespace = self._store.get(NAMESPACES, "", pod.namespace)
        if namespace is not None and not namespace.terminating:
            self._store.put(EVENTS, {"metadata": metadata, **event})
            self._remember(what, (pod.namespace, name))

    def _remember(self, what: _What, key: Key) -> None:
        self._known[what] = key
        self._order.append(what)
        if len(self._order) > KEPT_MAX:
            old = self._known.pop(self._order.popleft(), None)
            if old is not None and (event := self._store.get(EVENTS, *old)) is not None:
                self._store.remove(event)


def _about(pod: Stored, path: str, reason: str, message: str, kind: str) -> Object:
    involved = {"kind": "Pod", "namespace": pod.namespace, "name": pod.name, "uid": pod.uid, "apiVersion": "v1"}
    involved["resourceVersion"] = str(pod.version)
    if path:
        involved["fieldPath"] = path
    return {"involvedObject": involved, "reason": reason, "message": message, "type": kind}
