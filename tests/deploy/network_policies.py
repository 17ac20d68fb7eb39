"""Evaluates NetworkPolicies as a network plugin does."""

from ipaddress import ip_address, ip_network
from typing import NamedTuple

from tests.deploy.rendering import Object

NAMESPACE = "kubernetes.io/metadata.name"
"""A label that every namespace has."""


class Peer(NamedTuple):
    namespace: str
    labels: dict[str, str]


Address = str
"""An IP address of no Pod: of a node, or outside the cluster. Only the rules with an ipBlock name addresses."""


def may_reach(policies: list[Object], source: Peer, target: Peer | Address | None, port: int) -> bool:
    """Return True if `source` may open a TCP connection. `target` is None for an address that no rule names."""
    egress = _allowed(_selecting(policies, source, "Egress"), "egress", "to", source.namespace, target, port)
    if not isinstance(target, Peer):
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


def _allowed(policies: list[Object], rules: str, side: str, home: str, peer: Peer | Address | None, port: int) -> bool:
    """Return True if one rule of one policy matches. A Pod that no policy selects accepts all connections."""
    if not policies:
        return True
    return any(
        _is_open(rule, port) and (side not in rule or any(_matches_peer(entry, home, peer) for entry in rule[side]))
        for policy in policies
        for rule in policy["spec"].get(rules, [])
    )


def _is_open(rule: Object, port: int) -> bool:
    if "ports" not in rule:
        return True
    ports = [p for p in rule["ports"] if p["protocol"] == "TCP"]
    return any(p["port"] <= port <= p.get("endPort", p["port"]) for p in ports)


def _matches_peer(entry: Object, home: str, peer: Peer | Address | None) -> bool:
    if not isinstance(peer, Peer):
        return peer is not None and "ipBlock" in entry and _is_in_block(entry["ipBlock"], peer)
    if "ipBlock" in entry:
        return False
    if "namespaceSelector" in entry:
        in_namespace = matches(entry["namespaceSelector"], {NAMESPACE: peer.namespace})
    else:
        in_namespace = peer.namespace == home
    return in_namespace and matches(entry.get("podSelector", {}), peer.labels)


def _is_in_block(block: Object, address: Address) -> bool:
    excluded = any(ip_address(address) in ip_network(part) for part in block.get("except", []))
    return ip_address(address) in ip_network(block["cidr"]) and not excluded


def matches(selector: Object, labels: dict[str, str]) -> bool:
    for expression in selector.get("matchExpressions", []):
        is_in = labels.get(expression["key"]) in expression["values"]
        if is_in is not {"In": True, "NotIn": False}[expression["operator"]]:
            return False
    return bool(selector.get("matchLabels", {}).items() <= labels.items())
