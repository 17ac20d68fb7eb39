"""Defaults of Services. Addresses and node ports are allocated elsewhere."""

from typing import Any

from deploy.local.emulator.base.statuses import Object

_SPEC: Object = {"type": "ClusterIP", "sessionAffinity": "None"}
_SPEC_WITH_ADDRESS: Object = {
    "internalTrafficPolicy": "Cluster",
    "ipFamilies": ["IPv4"],
    "ipFamilyPolicy": "SingleStack",
}
_AFFINITY_SECONDS = 10800
NODE_PORT_TYPES = ("NodePort", "LoadBalancer")


def fill_service(body: Object) -> Object:
    spec = {**_SPEC, **body["spec"]}
    if spec["type"] != "ExternalName":
        spec = {**_SPEC_WITH_ADDRESS, **spec}
    if spec["type"] in NODE_PORT_TYPES:
        spec.setdefault("externalTrafficPolicy", "Cluster")
    if spec["sessionAffinity"] == "ClientIP":
        spec.setdefault("sessionAffinityConfig", {"clientIP": {"timeoutSeconds": _AFFINITY_SECONDS}})
    if "ports" in spec:
        spec["ports"] = [_port(port) for port in spec["ports"]]
    return {**body, "spec": spec, "status": body.get("status") or {"loadBalancer": {}}}


def _port(original: Object) -> Object:
    port: dict[str, Any] = {"protocol": "TCP", **original}
    if "targetPort" not in port and "port" in port:
        port["targetPort"] = port["port"]
    return port
