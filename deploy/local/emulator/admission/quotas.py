"""Resource quotas: the usage of each namespace, and the check of a new object."""

from collections import Counter
from decimal import Decimal

from deploy.local.emulator.base.quantities import format_amount, parse_quantity, to_canonical
from deploy.local.emulator.base.statuses import ApiError, Object, forbidden
from deploy.local.emulator.defaults.pods import iterate_containers
from deploy.local.emulator.defaults.services import NODE_PORT_TYPES
from deploy.local.emulator.storage.kinds import PODS, QUOTAS, SERVICES, VOLUME_CLAIMS, Kind
from deploy.local.emulator.storage.objects import Change, Store

Usage = Counter[str]
_COUNTED = (PODS, SERVICES, VOLUME_CLAIMS)
_RESOURCES = ("cpu", "memory")


class Quotas:
    """Counts the usage of each namespace that has a quota. Each change updates the counts; no change recounts all."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._usage: dict[str, Usage] = {}  # by namespace, if it has a quota

    def check(self, kind: Kind, body: Object) -> None:
        """Check a new object against the quotas of its namespace.

        Raises:
            ApiError: 403, with the first quota that the object would exceed.
        """
        namespace, name = body["metadata"].get("namespace", ""), body["metadata"]["name"]
        if kind not in _COUNTED or namespace not in self._usage:
            return
        requested = count_usage(kind, body)
        for quota in self._store.collection(QUOTAS).all(namespace):
            hard = quota.body["spec"].get("hard", {})
            if missing := _unspecified(kind, body, hard):
                raise forbidden(kind.resource, name, f"failed quota: {quota.name}: must specify {missing}")
            if exceeded := _exceeded_limits(requested, self._usage[namespace], hard):
                raise _quota_error(kind, name, quota.name, exceeded)

    def on_change(self, change: Change) -> None:
        kind, namespace = change.last.kind, change.last.namespace
        if kind is QUOTAS:
            self._count(namespace)
        elif kind in _COUNTED and namespace in self._usage:
            before = count_usage(kind, change.before.body) if change.before else Usage()
            after = count_usage(kind, change.after.body) if change.after else Usage()
            if before != after:
                self._usage[namespace].update(after)
                self._usage[namespace].subtract(before)
                self._report(namespace)

    def _count(self, namespace: str) -> None:
        """Count all objects of a namespace, after a change of its quotas."""
        self._usage.pop(namespace, None)
        if next(self._store.collection(QUOTAS).all(namespace), None) is None:
            return
        used = self._usage[namespace] = Usage()
        for kind in _COUNTED:
            for stored in self._store.collection(kind).all(namespace):
                used.update(count_usage(kind, stored.body))
        self._report(namespace)

    def _report(self, namespace: str) -> None:
        """Write the status of the quotas, as a quota controller does."""
        used = self._usage[namespace]
        for quota in list(self._store.collection(QUOTAS).all(namespace)):
            hard = quota.body["spec"].get("hard", {})
            formatted = {name: format_amount(Decimal(used[name]), name) for name in hard}
            status = {"hard": hard, "used": formatted}
            if quota.body["status"] != status:
                self._store.put(QUOTAS, {**quota.body, "status": status})


def _exceeded_limits(requested: Usage, used: Usage, hard: Object) -> list[tuple[str, Decimal, Decimal, str]]:
    """Return the exceeded resources as tuples: name, requested, used, limit."""
    return [
        (name, Decimal(requested[name]), Decimal(used[name]), limit)
        for name, limit in sorted(hard.items())
        if requested[name] and requested[name] + used[name] > parse_quantity(limit)
    ]


def count_usage(kind: Kind, body: Object) -> Usage:
    """Return the usage of one object. A Pod that ended uses nothing."""
    if kind is PODS and body["status"]["phase"] in {"Failed", "Succeeded"}:
        return Counter()
    used: Usage = Counter({kind.resource: 1, f"count/{kind.resource}": 1})
    if kind is SERVICES and body["spec"]["type"] in NODE_PORT_TYPES:
        used["services.nodeports"] = len(body["spec"].get("ports", []))
    if kind is SERVICES and body["spec"]["type"] == "LoadBalancer":
        used["services.loadbalancers"] = 1
    if kind is PODS:
        used.update(_pod_resources(body["spec"]))
    return used


def _pod_resources(spec: Object) -> Usage:
    used: Counter[str] = Counter()
    for container in spec["containers"]:
        for side in ("requests", "limits"):
            for name in _RESOURCES:
                if name in container["resources"].get(side, {}):
                    used[f"{side}.{name}"] += parse_quantity(container["resources"][side][name])  # type: ignore[assignment]  # Counter adds Decimals, too
    used.update({name: used[f"requests.{name}"] for name in _RESOURCES})
    return used


def _unspecified(kind: Kind, body: Object, hard: Object) -> str:
    """Return the containers that do not set a resource of the quota. Kubernetes refuses such a Pod."""
    if kind is not PODS:
        return ""
    missing = []
    for name in sorted(hard):
        side, _, resource = name.rpartition(".")
        if resource in _RESOURCES and side in {"", "requests", "limits"}:
            names = [
                c["name"]
                for c in iterate_containers(body["spec"])
                if resource not in c["resources"].get(side or "requests", {})
            ]
            missing += [f"{name} for: {','.join(names)}"] if names else []
    return "; ".join(missing)


def _quota_error(kind: Kind, name: str, quota: str, exceeded: list[tuple[str, Decimal, Decimal, str]]) -> ApiError:
    def join(values: list[tuple[str, str]]) -> str:
        return ",".join(f"{resource}={value}" for resource, value in values)

    requested = join([(resource, format_amount(requested, resource)) for resource, requested, _, _ in exceeded])
    used = join([(resource, format_amount(current, resource)) for resource, _, current, _ in exceeded])
    limited = join([(resource, to_canonical(limit)) for resource, _, _, limit in exceeded])
    detail = f"exceeded quota: {quota}, requested: {requested}, used: {used}, limited: {limited}"
    return forbidden(kind.resource, name, detail)
