"""Updates of stored objects: replace and patch."""

from deploy.local.emulator.base.statuses import FieldError, Object, bad_request, conflict, invalid, not_found
from deploy.local.emulator.defaults.pods import fill_pod_spec
from deploy.local.emulator.defaults.services import NODE_PORT_TYPES, fill_service
from deploy.local.emulator.http import bodies
from deploy.local.emulator.lifecycle.cluster import Cluster
from deploy.local.emulator.storage import patches
from deploy.local.emulator.storage.kinds import PODS, SERVICES, Kind
from deploy.local.emulator.storage.objects import StoredObject
from deploy.local.emulator.validation import pods, services
from deploy.local.emulator.validation.objects import validate_object

_SERVER_FIELDS = ("name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds")
_STALE = "the object has been modified; please apply your changes to the latest version and try again"


def patch(
    cluster: Cluster, kind: Kind, stored: StoredObject, body: bytes, content_type: str, *, status: bool
) -> StoredObject:
    patched = patches.apply(stored.body, body, content_type)
    return replace(cluster, kind, stored, bodies.convert(kind, patched), status=status)


def get_object(cluster: Cluster, kind: Kind, namespace: str, name: str) -> StoredObject:
    stored = cluster.store.get(kind, namespace, name)
    if stored is None:
        raise not_found(kind.resource, name)
    return stored


def replace(cluster: Cluster, kind: Kind, stored: StoredObject, body: Object, *, status: bool) -> StoredObject:
    """Replace an object. `status`: through the subresource, which changes the status only."""
    _check_identity(kind, stored, body["metadata"])
    if status:
        return cluster.store.put(kind, {**stored.body, "status": {**stored.body["status"], **body.get("status", {})}})
    metadata = _merge_metadata(stored, body["metadata"])
    body = {**body, "metadata": metadata}
    if "status" in stored.body:
        body["status"] = stored.body["status"]
    if kind is SERVICES:
        return _replace_service(cluster, stored, body)
    if kind is PODS:
        body = _update_pod(stored, body)
    return _store(cluster, kind, stored, body)


def _check_identity(kind: Kind, stored: StoredObject, metadata: Object) -> None:
    name = metadata.get("name", "")
    if name != stored.name:
        raise bad_request(f"the name of the object ({name}) does not match the name on the URL ({stored.name})")
    if metadata.get("namespace", stored.namespace) != stored.namespace:
        raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
    if metadata.get("uid", stored.uid) != stored.uid:
        detail = f"Precondition failed: UID in precondition: {metadata['uid']}, UID in object meta: {stored.uid}"
        raise conflict(kind.resource, stored.name, detail)
    if metadata.get("resourceVersion", str(stored.version)) != str(stored.version):
        raise conflict(kind.resource, stored.name, _STALE)


def _merge_metadata(stored: StoredObject, metadata: Object) -> Object:
    server_fields = {key: stored.metadata[key] for key in (*_SERVER_FIELDS, "generation") if key in stored.metadata}
    return {**{key: value for key, value in metadata.items() if key != "generation"}, **server_fields}


def _update_pod(stored: StoredObject, body: Object) -> Object:
    spec = fill_pod_spec(body["spec"])
    if spec == stored.body["spec"]:
        return {**body, "spec": spec}
    metadata = {**body["metadata"], "generation": body["metadata"]["generation"] + 1}
    return {**body, "metadata": metadata, "spec": spec}


def _replace_service(cluster: Cluster, stored: StoredObject, body: Object) -> StoredObject:
    cluster_ip = {
        name: stored.body["spec"][name] for name in ("clusterIP", "clusterIPs") if name in stored.body["spec"]
    }
    spec = body["spec"] if body["spec"].get("type") == "ExternalName" else {**cluster_ip, **body["spec"]}
    defaulted = fill_service({**body, "spec": _drop_node_ports(spec, stored.body["spec"])})
    allocated = cluster.addresses.allocate(defaulted, stored.body)
    updated = None
    try:
        updated = _store(cluster, SERVICES, stored, allocated)
        return updated
    finally:
        if updated is None:
            cluster.addresses.roll_back(allocated, stored.body)


def _drop_node_ports(spec: Object, old: Object) -> Object:
    """Drop node ports and traffic policy from a Service that is no longer of a type with node ports."""
    if spec.get("type", "ClusterIP") in NODE_PORT_TYPES or old["type"] not in NODE_PORT_TYPES:
        return spec
    ports = [{key: value for key, value in port.items() if key != "nodePort"} for port in spec.get("ports", [])]
    return {**{key: value for key, value in spec.items() if key != "externalTrafficPolicy"}, "ports": ports}


def _store(cluster: Cluster, kind: Kind, stored: StoredObject, body: Object) -> StoredObject:
    if errors := _validate(kind, stored.body, body):
        raise invalid(kind.name, stored.name, errors)
    after = cluster.store.put(kind, body)
    is_ending = after.is_terminating and not after.metadata.get("finalizers")
    if is_ending and not after.metadata.get("deletionGracePeriodSeconds", 1):
        return cluster.store.remove(after)
    return after


def _validate(kind: Kind, old: Object, new: Object) -> list[FieldError]:
    errors = validate_object(kind, new)
    if kind is PODS:
        errors += pods.validate_update(old["spec"], new["spec"])
    if kind is SERVICES:
        errors += services.validate_update(old["spec"], new["spec"])
    return errors
