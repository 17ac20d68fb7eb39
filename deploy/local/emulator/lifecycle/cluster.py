"""Everything that makes up one emulated cluster, wired together once."""

import secrets
from collections.abc import Callable
from random import Random

from deploy.local.emulator.admission.quotas import Quotas
from deploy.local.emulator.base.faults import Faults
from deploy.local.emulator.base.options import Options
from deploy.local.emulator.lifecycle import deletion, namespaces
from deploy.local.emulator.lifecycle.garbage import Garbage
from deploy.local.emulator.networking.addresses import Addresses
from deploy.local.emulator.networking.endpoints import Proxy
from deploy.local.emulator.networking.node_ports import NodePorts
from deploy.local.emulator.node.events import Recorder
from deploy.local.emulator.node.kubelet import Kubelet
from deploy.local.emulator.node.node import NAME, Node, node_object
from deploy.local.emulator.storage.kinds import NODES
from deploy.local.emulator.storage.objects import Change, Store
from deploy.local.emulator.storage.watches import Watchers


class Cluster:
    """Owned by one running server; needs its event loop. `close` ends all Pods and frees all ports."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.random = Random(options.seed)
        self.token = secrets.token_urlsafe(24)
        self.store = Store(options.history)
        self.faults = Faults(self.random)
        self.watchers = Watchers()
        recorder = Recorder(self.store, NAME, self.random)
        self.node = Node(self.store, recorder, self.faults, options, self.random, self._stopped)
        self.kubelet = Kubelet(self.node)
        self.proxy = Proxy(self.store, self.kubelet.running, options.proxy_seconds)
        self.node_ports = NodePorts(options.node_address, options.node_ports, self.random)
        self.addresses = Addresses(self.store, self.node_ports, self.proxy, self.random)
        self.quotas = Quotas(self.store)
        self.garbage = Garbage(self.store, options.garbage_seconds, lambda stored: deletion.collect(self, stored))
        self.store.listeners += self._listeners()
        self._populate()

    def _listeners(self) -> list[Callable[[Change], None]]:
        """Watchers first: what another listener writes in turn comes after, for them too."""
        return [
            self.watchers.on_change,
            self.kubelet.on_change,
            self.proxy.on_change,
            self.addresses.on_change,
            self.quotas.on_change,
            self.garbage.on_change,
            lambda change: namespaces.on_change(self, change),
        ]

    def _populate(self) -> None:
        self.store.put(NODES, node_object(self.random, self.options.node_address))
        for name in ("default", "kube-system"):
            namespaces.make(self, name)

    def _stopped(self, uid: str) -> None:
        self.proxy.stopped(uid)

    def close(self) -> None:
        self.kubelet.close()
        for watcher in self.watchers.all():
            watcher.close()
        self.addresses.close()
