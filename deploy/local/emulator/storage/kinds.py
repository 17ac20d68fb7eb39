"""The kinds of objects that the emulator serves, all of the core group v1."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from deploy.local.emulator.base.statuses import Object
from deploy.local.emulator.schemas.meta import ApiStruct, Event, UntypedObject
from deploy.local.emulator.schemas.pods import Pod
from deploy.local.emulator.schemas.services import Service

Fields = Callable[[Object], dict[str, str]]


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """A kind of objects, and its properties in the API."""

    resource: str
    name: str
    schema: type[ApiStruct]
    namespaced: bool = True
    returns_deleted: bool = True  # a delete returns the object; False: a Status
    bare: Object = field(default_factory=dict)  # fields of an empty object, as in a BOOKMARK
    fields: Fields = lambda _body: {}  # values for field selectors


def _pod_fields(body: Object) -> dict[str, str]:
    spec, status = body["spec"], body["status"]
    return {
        "spec.nodeName": spec.get("nodeName", ""),
        "spec.restartPolicy": spec["restartPolicy"],
        "spec.schedulerName": spec["schedulerName"],
        "spec.serviceAccountName": spec["serviceAccountName"],
        "spec.hostNetwork": "true" if spec.get("hostNetwork") else "false",
        "status.phase": status["phase"],
        "status.podIP": status.get("podIP", ""),
        "status.nominatedNodeName": "",
    }


def _service_fields(body: Object) -> dict[str, str]:
    return {"spec.clusterIP": body["spec"].get("clusterIP", ""), "spec.type": body["spec"]["type"]}


def _event_fields(body: Object) -> dict[str, str]:
    reference: dict[str, Any] = body.get("involvedObject", {})
    names = ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
    fields = {f"involvedObject.{name}": str(reference.get(name, "")) for name in names}
    component = body.get("source", {}).get("component") or body.get("reportingComponent", "")
    fields |= {"reason": body.get("reason", ""), "type": body.get("type", ""), "source": component}
    return fields | {"reportingComponent": body.get("reportingComponent", "")}


def _namespace_fields(body: Object) -> dict[str, str]:
    return {"status.phase": body["status"]["phase"]}


_BARE_EVENT: Object = {
    "involvedObject": {},
    "source": {},
    "firstTimestamp": None,
    "lastTimestamp": None,
    "eventTime": None,
    "reportingComponent": "",
    "reportingInstance": "",
}
_BARE: Object = {"spec": {}, "status": {}}
_BARE_SERVICE: Object = {"spec": {}, "status": {"loadBalancer": {}}}
_BARE_POD: Object = {"spec": {"containers": None}, "status": {}}

PODS = Kind("pods", "Pod", Pod, bare=_BARE_POD, fields=_pod_fields)
SERVICES = Kind("services", "Service", Service, bare=_BARE_SERVICE, fields=_service_fields)
NAMESPACES = Kind("namespaces", "Namespace", UntypedObject, namespaced=False, bare=_BARE, fields=_namespace_fields)
EVENTS = Kind("events", "Event", Event, returns_deleted=False, bare=_BARE_EVENT, fields=_event_fields)
VOLUME_CLAIMS = Kind("persistentvolumeclaims", "PersistentVolumeClaim", UntypedObject, bare=_BARE)
QUOTAS = Kind("resourcequotas", "ResourceQuota", UntypedObject, bare=_BARE)
SERVICE_ACCOUNTS = Kind("serviceaccounts", "ServiceAccount", UntypedObject)
NODES = Kind("nodes", "Node", UntypedObject, namespaced=False, returns_deleted=False, bare=_BARE)

KINDS = {
    kind.resource: kind for kind in (PODS, SERVICES, NAMESPACES, EVENTS, VOLUME_CLAIMS, QUOTAS, SERVICE_ACCOUNTS, NODES)
}
