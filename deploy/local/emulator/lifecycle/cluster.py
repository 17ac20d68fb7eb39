"""The parts of one emulated cluster, and their wiring."""

import secrets
from collections.abc import Callable
from random import Random

from deploy.local.emulator.admission.quotas import Quotas
from deploy.local.emulator.base.faults import Faults
from deploy.local.emulator.base.options import Options
from deploy.local.emulator.lifecycle import deletion
from deploy.local.emulator.lifecycle.garbage import GarbageCollector
from deploy.local.emulator.lifecycle.namespaces import NamespaceController
from deploy.local.emulator.networking.addresses import ServiceAddresses
from deploy.local.emulator.networking.kube_proxy import KubeProxy
from deploy.local.emulator.networking.node_ports import NodePorts
from deploy.local.emulator.node.events import EventRecorder
from deploy.local.emulator.node.kubelet import Kubelet
from deploy.local.emulator.node.node import NAME, Node, node_object
from deploy.local.emulator.storage.kinds import NODES, Kind
from deploy.local.emulator.storage.objects import Change, Store, StoredObject
from deploy.local.emulator.storage.watches import Watchers


class Cluster:
    """An emulated cluster. Needs a running event loop. `close` ends all Pods and releases all ports."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.random = Random(options.seed)
        self.token = secrets.token_urlsafe(24)
        self.store = Store(options.history)
        self.faults = Faults(self.random)
        self.watchers = Watchers()
        recorder = EventRecorder(self.store, NAME, self.random)
        self.node = Node(self.store, recorder, self.faults, options, self.random, self._on_pod_stopped)
        self.kubelet = Kubelet(self.node)
        self.proxy = KubeProxy(self.store, self.kubelet.is_running, options.proxy_seconds)
        self.node_ports = NodePorts(options.node_address, options.node_ports, self.random)
        self.addresses = ServiceAddresses(self.store, self.node_ports, self.proxy, self.random)
        self.quotas = Quotas(self.store)
        self.garbage = GarbageCollector(self.store, options.garbage_seconds)
        self.namespaces = NamespaceController(self.store, self.random)
        self.store.listeners += self._listeners()
        self._populate()

    def _listeners(self) -> list[Callable[[Change], None]]:
        """Return the listeners, watchers first: they must see a change before the writes of other listeners."""
        return [
            self.watchers.on_change,
            self.kubelet.on_change,
            self.proxy.on_change,
            self.addresses.on_change,
            self.quotas.on_change,
            self.garbage.on_change,
            self.namespaces.on_change,
        ]

    def _populate(self) -> None:
        self.store.put(NODES, node_object(self.random, self.options.node_address))
        for name in ("default", "kube-system"):
            self.namespaces.create(name)

    def delete(self, kind: Kind, namespace: str, name: str, options: deletion.DeleteOptions) -> StoredObject:
        """Delete an object for a client. Return it as it is now, or as it was at its removal."""
        stored = deletion.find_deletable(self.store, kind, namespace, name, options)
        if options.propagation_policy == "Orphan":
            self.garbage.orphan_dependents(stored.uid)
        return deletion.delete(self.store, stored, options)

    def _on_pod_stopped(self, uid: str) -> None:
        self.proxy.abort_connections(uid)

    def close(self) -> None:
        self.kubelet.close()
        for watcher in self.watchers.all():
            watcher.close()
        self.addresses.close()
