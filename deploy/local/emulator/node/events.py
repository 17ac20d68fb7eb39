"""Events of the scheduler and the kubelet. A repeated Event is one object with a count."""

import itertools
import time
from collections import deque
from random import Random

from deploy.local.emulator.base.ids import uid
from deploy.local.emulator.base.statuses import Object
from deploy.local.emulator.base.timestamps import now, now_micro
from deploy.local.emulator.storage.kinds import EVENTS, NAMESPACES
from deploy.local.emulator.storage.objects import Key, Store, StoredObject

EVENTS_MAX = 20_000  # more than one hour of Events; the real server drops an Event after one hour

_EventKey = tuple[str, str, str, str]  # uid of the Pod, reason, message, and the container or the component


class EventRecorder:
    """Writes Events about Pods."""

    def __init__(self, store: Store, node: str, random: Random) -> None:
        self._store = store
        self._node = node
        self._random = random
        self._keys: dict[_EventKey, Key] = {}
        self._order: deque[_EventKey] = deque()
        self._clock = itertools.count(time.time_ns())  # names are times in ns; the counter keeps them distinct

    def record_scheduler(self, pod: StoredObject, reason: str, message: str) -> None:
        is_scheduled = reason == "Scheduled"
        self._write(
            pod,
            (pod.uid, reason, message, "scheduler"),
            {
                **_event_fields(pod, "", reason, message, "Normal" if is_scheduled else "Warning"),
                "source": {},
                "firstTimestamp": None,
                "lastTimestamp": None,
                "eventTime": now_micro(),
                "action": "Binding" if is_scheduled else "Scheduling",
                "reportingComponent": "default-scheduler",
                "reportingInstance": f"default-scheduler-{self._node}",
            },
        )

    def record_kubelet(
        self, pod: StoredObject, reason: str, message: str, container: str = "", event_type: str = "Normal"
    ) -> None:
        """Record an Event about the Pod, or about one container. A repeated Event increases the count."""
        object_key = self._keys.get((pod.uid, reason, message, container))
        if object_key is not None and (event := self._store.get(EVENTS, *object_key)) is not None:
            self._store.put(EVENTS, {**event.body, "lastTimestamp": now(), "count": event.body["count"] + 1})
            return
        moment, field_path = now(), f"spec.containers{{{container}}}" if container else ""
        self._write(
            pod,
            (pod.uid, reason, message, container),
            {
                **_event_fields(pod, field_path, reason, message, event_type),
                "source": {"component": "kubelet", "host": self._node},
                "firstTimestamp": moment,
                "lastTimestamp": moment,
                "count": 1,
                "eventTime": None,
                "reportingComponent": "kubelet",
                "reportingInstance": self._node,
            },
        )

    def _write(self, pod: StoredObject, event_key: _EventKey, event: Object) -> None:
        """Write an Event, except into a terminating namespace, where the API server would refuse it."""
        name = f"{pod.name}.{next(self._clock):x}"
        identity = {"uid": uid(self._random), "creationTimestamp": now()}
        metadata = {"name": name, "namespace": pod.namespace, **identity}
        namespace = self._store.get(NAMESPACES, "", pod.namespace)
        if namespace is not None and not namespace.is_terminating:
            self._store.put(EVENTS, {"metadata": metadata, **event})
            self._remember(event_key, (pod.namespace, name))

    def _remember(self, event_key: _EventKey, key: Key) -> None:
        self._keys[event_key] = key
        self._order.append(event_key)
        if len(self._order) > EVENTS_MAX:
            oldest = self._keys.pop(self._order.popleft(), None)
            if oldest is not None and (event := self._store.get(EVENTS, *oldest)) is not None:
                self._store.remove(event)


def _event_fields(pod: StoredObject, field_path: str, reason: str, message: str, event_type: str) -> Object:
    reference = {"kind": "Pod", "namespace": pod.namespace, "name": pod.name, "uid": pod.uid, "apiVersion": "v1"}
    reference["resourceVersion"] = str(pod.version)
    if field_path:
        reference["fieldPath"] = field_path
    return {"involvedObject": reference, "reason": reason, "message": message, "type": event_type}
