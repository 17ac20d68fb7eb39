"""NetworkPolicies, read as a network plugin reads them: may this Pod reach that one?"""

from typing import NamedTuple

from tests.deploy.rendering import Object

NAMESPACE = "kubernetes.io/metadata.name"
"""The label that every namespace has."""


class Peer(NamedTuple):
    namespace: str
    labels: dict[str, str]


def may_reach(policies: list[Object], source: Peer, target: Peer | None, port: int) -> bool:
    """TCP. `target` None: an address that is no Pod's."""
    leaves = _allowed(_of(policies, source, "Egress"), "egress", "to", source.namespace, target, port)
    if target is None:
        return leaves
    return leaves and _allowed(_of(policies, target, "Ingress"), "ingress", "from", target.namespace, source, port)


def _of(policies: list[Object], pod: Peer, direction: str) -> list[Object]:
    return [
        p
        for p in policies
        if p["metadata"]["namespace"] == pod.namespace
        and direction in p["spec"]["policyTypes"]
        and matches(p["spec"]["podSelector"], pod.labels)
    ]


def _allowed(policies: list[Object], rules: str, side: str, home: str, peer: Peer | None, port: int) -> bool:
    """A Pod that no policy selects is open; else one rule of one of them must let it through."""
    if not policies:
        return True
    return any(
        _is_open(rule, port) and (side not in rule or any(_is(entry, home, peer) for entry in rule[side]))
        for policy in policies
        for rule in policy["spec"].get(rules, [])
    )


def _is_open(rule: Object, port: int) -> bool:
    ports = [p for p in rule["ports"] if p["protocol"] == "TCP"]
    return any(p["port"] <= port <= p.get("endPort", p["port"]) for p in ports)


def _is(entry: Object, home: str, peer: Peer | None) -> bool:
    if peer is None:
        return False
    if "namespaceSelector" in entry:
        in_namespace = matches(entry["namespaceSelector"], {NAMESPACE: peer.namespace})
    else:
        in_namespace = peer.namespace == home
    return in_namespace and matches(entry.get("podSelector", {}), peer.labels)


def matches(selector: Object, labels: dict[str, str]) -> bool:
    for wanted in selector.get("matchExpressions", []):
        is_one = labels.get(wanted["key"]) in wanted["values"]
        if is_one is not {"In": True, "NotIn": False}[wanted["operator"]]:
            return False
    return bool(selector.get("matchLabels", {}).items() <= labels.items())
