"""Resource quotas: how much a namespace uses, and whether one more object is too much."""

from collections import Counter
from decimal import Decimal

from deploy.local.emulator.base.quantities import amount, canonical, sized
from deploy.local.emulator.base.statuses import ApiError, Object, forbidden
from deploy.local.emulator.defaults.pods import containers
from deploy.local.emulator.defaults.services import REACHED_FROM_OUTSIDE
from deploy.local.emulator.storage.kinds import CLAIMS, PODS, QUOTAS, SERVICES, Kind
from deploy.local.emulator.storage.objects import Change, Store

Usage = Counter[str]
_COUNTED = (PODS, SERVICES, CLAIMS)
_RESOURCES = ("cpu", "memory")


class Quotas:
    """Keeps what each namespace with a quota uses up to date; a change costs what it changes, not what is there."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._used: dict[str, Usage] = {}  # of namespaces that have a quota

    def check(self, kind: Kind, body: Object) -> None:
        """Raises 403, naming the first quota that would be exceeded."""
        namespace, name = body["metadata"].get("namespace", ""), body["metadata"]["name"]
        if kind not in _COUNTED or namespace not in self._used:
            return
        asked = usage(kind, body)
        for quota in self._store.of(QUOTAS).all(namespace):
            hard = quota.body["spec"].get("hard", {})
            if missing := _unsaid(kind, body, hard):
                raise forbidden(kind.resource, name, f"failed quota: {quota.name}: must specify {missing}")
            if over := _over(asked, self._used[namespace], hard):
                raise _exceeded(kind, name, quota.name, over)

    def on_change(self, change: Change) -> None:
        kind, namespace = change.last.kind, change.last.namespace
        if kind is QUOTAS:
            self._count(namespace)
        elif kind in _COUNTED and namespace in self._used:
            before = usage(kind, change.before.body) if change.before else Usage()
            after = usage(kind, change.after.body) if change.after else Usage()
            if before != after:
                self._used[namespace].update(after)
                self._used[namespace].subtract(before)
                self._report(namespace)

    def _count(self, namespace: str) -> None:
        """Anew, when a quota came or went."""
        self._used.pop(namespace, None)
        if next(self._store.of(QUOTAS).all(namespace), None) is None:
            return
        used = self._used[namespace] = Usage()
        for kind in _COUNTED:
            for stored in self._store.of(kind).all(namespace):
                used.update(usage(kind, stored.body))
        self._report(namespace)

    def _report(self, namespace: str) -> None:
        """The status a quota controller keeps."""
        used = self._used[namespace]
        for quota in list(self._store.of(QUOTAS).all(namespace)):
            hard = quota.body["spec"].get("hard", {})
            shown = {name: sized(Decimal(used[name]), name) for name in hard}
            status = {"hard": hard, "used": shown}
            if quota.body["status"] != status:
                self._store.put(QUOTAS, {**quota.body, "status": status})


def _over(asked: Usage, used: Usage, hard: Object) -> list[tuple[str, Decimal, Decimal, str]]:
    """What would be too much: its name, how much is asked for, used and allowed."""
    return [
        (name, Decimal(asked[name]), Decimal(used[name]), limit)
        for name, limit in sorted(hard.items())
        if asked[name] and asked[name] + used[name] > amount(limit)
    ]


def usage(kind: Kind, body: Object) -> Usage:
    """What one object counts for; a Pod that has ended counts for nothing."""
    if kind is PODS and body["status"]["phase"] in {"Failed", "Succeeded"}:
        return Counter()
    used: Usage = Counter({kind.resource: 1, f"count/{kind.resource}": 1})
    if kind is SERVICES and body["spec"]["type"] in REACHED_FROM_OUTSIDE:
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
                    used[f"{side}.{name}"] += amount(container["resources"][side][name])  # type: ignore[assignment]  # Decimals count too
    used.update({name: used[f"requests.{name}"] for name in _RESOURCES})
    return used


def _unsaid(kind: Kind, body: Object, hard: Object) -> str:
    """Under a quota of cpu or memory every container must say what it wants of it."""
    if kind is not PODS:
        return ""
    missing = []
    for name in sorted(hard):
        side, _, resource = name.rpartition(".")
        if resource in _RESOURCES and side in {"", "requests", "limits"}:
            lacking = [
                c["name"]
                for c in containers(body["spec"])
                if resource not in c["resources"].get(side or "requests", {})
            ]
            missing += [f"{name} for: {','.join(lacking)}"] if lacking else []
    return "; ".join(missing)


def _exceeded(kind: Kind, name: str, quota: str, over: list[tuple[str, Decimal, Decimal, str]]) -> ApiError:
    def told(values: list[tuple[str, str]]) -> str:
        return ",".join(f"{what}={value}" for what, value in values)

    requested = told([(what, sized(asked, what)) for what, asked, _, _ in over])
    used = told([(what, sized(now, what)) for what, _, now, _ in over])
    limited = told([(what, canonical(limit)) for what, _, _, limit in over])
    why = f"exceeded quota: {quota}, requested: {requested}, used: {used}, limited: {limited}"
    return forbidden(kind.resource, name, why)
