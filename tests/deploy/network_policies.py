"""Evaluates NetworkPolicies as a network plugin does."""

from typing import NamedTuple

from tests.deploy.rendering import Object

NAMESPACE = "kubernetes.io/metadata.name"
"""A label that every namespace has."""


class Peer(NamedTuple):
    namespace: str
    labels: dict[str, str]


def may_reach(policies: list[Object], source: Peer, target: Peer | None, port: int) -> bool:
    """Return True if `source` may open a TCP connection. `target` is None for an address outside the cluster."""
    egress = _allowed(_selecting(policies, source, "Egress"), "egress", "to", source.namespace, target, port)
    if target is None:
        return egress
    ingress = _selecting(policies, target, "Ingress")
    return egress and _allowed(ingress, "ingress", "from", target.namespace, source, port)


def _selecting(policies: list[Object], pod: Peer, direction: str) -> list[Object]:
    return [
        p
        for p in policies
        if p["metadata"]["namespace"] == pod.namespace
        and direction in p["spec"]["policyTypes"]
        and matches(p["spec"]["podSelector"], pod.labels)
    ]


def _allowed(policies: list[Object], rules: str, side: str, home: str, peer: Peer | None, port: int) -> bool:
    """Return True if one rule of one policy matches. A Pod that no policy selects accepts all connections."""
    if not policies:
        return True
    return any(
        _is_open(rule, port) and (side not in rule or any(_matches_peer(entry, home, peer) for entry in rule[side]))
        for policy in policies
        for rule in policy["spec"].get(rules, [])
    )


def _is_open(rule: Object, port: int) -> bool:
    ports = [p for p in rule["ports"] if p["protocol"] == "TCP"]
    return any(p["port"] <= port <= p.get("endPort", p["port"]) for p in ports)


def _matches_peer(entry: Object, home: str, peer: Peer | None) -> bool:
    if peer is None:
        return False
    if "namespaceSelector" in entry:
        in_namespace = matches(entry["namespaceSelector"], {NAMESPACE: peer.namespace})
    else:
        in_namespace = peer.namespace == home
    return in_namespace and matches(entry.get("podSelector", {}), peer.labels)


def matches(selector: Object, labels: dict[str, str]) -> bool:
    for expression in selector.get("matchExpressions", []):
        is_in = labels.get(expression["key"]) in expression["values"]
        if is_in is not {"In": True, "NotIn": False}[expression["operator"]]:
            return False
    return bool(selector.get("matchLabels", {}).items() <= labels.items())
