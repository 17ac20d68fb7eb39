"""Creation, in the order of the real server: decode, admit, default, allocate, validate, admit again, store.

The order decides which of several errors a client gets.
"""

from deploy.local.emulator.admission import pod_security
from deploy.local.emulator.admission.references import admit_references
from deploy.local.emulator.base.ids import generated_name, suffix, uid
from deploy.local.emulator.base.statuses import Object, already_exists, bad_request, invalid
from deploy.local.emulator.base.timestamps import now
from deploy.local.emulator.defaults.pods import fill_pod
from deploy.local.emulator.defaults.services import fill_service
from deploy.local.emulator.lifecycle import namespaces
from deploy.local.emulator.lifecycle.cluster import Cluster
from deploy.local.emulator.storage.kinds import NAMESPACES, PODS, QUOTAS, SERVICES, VOLUME_CLAIMS, Kind
from deploy.local.emulator.storage.objects import StoredObject
from deploy.local.emulator.validation.objects import validate_object

_SERVER_FIELDS = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation")


def create(cluster: Cluster, kind: Kind, namespace: str, body: Object) -> StoredObject:
    metadata = _new_metadata(cluster, kind, namespace, body["metadata"])
    if kind.namespaced:
        namespaces.admit(cluster.store, kind, namespace, metadata.get("name", ""))
    body = {**body, "metadata": metadata}
    if kind is SERVICES:
        return _create_service(cluster, body)
    return _store(cluster, kind, _fill_defaults(cluster, kind, body))


def _new_metadata(cluster: Cluster, kind: Kind, namespace: str, request: Object) -> Object:
    _check_namespace(kind, namespace, request)
    if "resourceVersion" in request:
        raise bad_request("resourceVersion should not be set on objects to be created")
    metadata = {key: value for key, value in request.items() if key not in _SERVER_FIELDS}
    if not metadata.get("name") and metadata.get("generateName"):
        metadata["name"] = generated_name(metadata["generateName"], cluster.random)
    if kind.namespaced:
        metadata["namespace"] = namespace
    return {**metadata, "uid": uid(cluster.random), "creationTimestamp": now()}


def _check_namespace(kind: Kind, namespace: str, metadata: Object) -> None:
    body_namespace = metadata.get("namespace", "")
    if kind.namespaced and body_namespace not in {"", namespace}:
        raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
    if not kind.namespaced and body_namespace:
        raise bad_request("namespace is not allowed on this type")


def _fill_defaults(cluster: Cluster, kind: Kind, body: Object) -> Object:
    if kind is PODS:
        admit_references(cluster.store, body)
        return fill_pod(body, suffix(cluster.random))
    if kind is NAMESPACES:
        return namespaces.fill_namespace(body)
    if kind is QUOTAS:
        return {**body, "status": {}}
    if kind is VOLUME_CLAIMS:
        return {**body, "status": {"phase": "Bound"}}  # bound at once; a real provisioner takes time
    return body


def _create_service(cluster: Cluster, body: Object) -> StoredObject:
    allocated = cluster.addresses.allocate(fill_service(body))
    stored = None
    try:
        stored = _store(cluster, SERVICES, allocated)
        return stored
    finally:
        if stored is None:
            cluster.addresses.roll_back(allocated)


def _store(cluster: Cluster, kind: Kind, body: Object) -> StoredObject:
    metadata = body["metadata"]
    name, namespace = metadata.get("name", ""), metadata.get("namespace", "")
    if errors := validate_object(kind, body):
        raise invalid(kind.name, name, errors)
    if kind is PODS:
        pod_security.admit(cluster.store, body)
    cluster.quotas.check(kind, body)
    if (existing := cluster.store.get(kind, namespace, name)) is not None:
        raise already_exists(kind.resource, name, is_terminating=existing.is_terminating)
    return cluster.store.put(kind, body)
