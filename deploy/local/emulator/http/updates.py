"""Replacing and patching what is there."""

from deploy.local.emulator.base.statuses import FieldError, Object, bad_request, conflict, invalid, not_found
from deploy.local.emulator.defaults.pods import default_spec
from deploy.local.emulator.defaults.services import REACHED_FROM_OUTSIDE, fill_service
from deploy.local.emulator.http import bodies
from deploy.local.emulator.lifecycle.cluster import Cluster
from deploy.local.emulator.storage import patches
from deploy.local.emulator.storage.kinds import PODS, SERVICES, Kind
from deploy.local.emulator.storage.objects import Stored
from deploy.local.emulator.validation import pods, services
from deploy.local.emulator.validation.objects import faults

_SERVERS_OWN = ("name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds")
_STALE = "the object has been modified; please apply your changes to the latest version and try again"


def patch(cluster: Cluster, kind: Kind, stored: Stored, body: bytes, content_type: str, *, status: bool) -> Stored:
    patched = patches.apply(stored.body, body, content_type)
    return replace(cluster, kind, stored, bodies.shaped(kind, patched), status=status)


def find(cluster: Cluster, kind: Kind, namespace: str, name: str) -> Stored:
    stored = cluster.store.get(kind, namespace, name)
    if stored is None:
        raise not_found(kind.resource, name)
    return stored


def replace(cluster: Cluster, kind: Kind, stored: Stored, given: Object, *, status: bool) -> Stored:
    """`status`: through the subresource, which changes nothing else."""
    _check_identity(kind, stored, given["metadata"])
    if status:
        return cluster.store.put(kind, {**stored.body, "status": {**stored.body["status"], **given.get("status", {})}})
    metadata = _metadata(stored, given["metadata"])
    body = {**given, "metadata": metadata}
    if "status" in stored.body:
        body["status"] = stored.body["status"]
    if kind is SERVICES:
        return _replace_service(cluster, stored, body)
    if kind is PODS:
        body = _pod(stored, body)
    return _store(cluster, kind, stored, body)


def _check_identity(kind: Kind, stored: Stored, given: Object) -> None:
    name = given.get("name", "")
    if name != stored.name:
        raise bad_request(f"the name of the object ({name}) does not match the name on the URL ({stored.name})")
    if given.get("namespace", stored.namespace) != stored.namespace:
        raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
    if given.get("uid", stored.uid) != stored.uid:
        why = f"Precondition failed: UID in precondition: {given['uid']}, UID in object meta: {stored.uid}"
        raise conflict(kind.resource, stored.name, why)
    if given.get("resourceVersion", str(stored.version)) != str(stored.version):
        raise conflict(kind.resource, stored.name, _STALE)


def _metadata(stored: Stored, given: Object) -> Object:
    kept = {key: stored.metadata[key] for key in (*_SERVERS_OWN, "generation") if key in stored.metadata}
    return {**{key: value for key, value in given.items() if key != "generation"}, **kept}


def _pod(stored: Stored, body: Object) -> Object:
    spec = default_spec(body["spec"])
    if spec == stored.body["spec"]:
        return {**body, "spec": spec}
    metadata = {**body["metadata"], "generation": body["metadata"]["generation"] + 1}
    return {**body, "metadata": metadata, "spec": spec}


def _replace_service(cluster: Cluster, stored: Stored, body: Object) -> Stored:
    kept = {name: stored.body["spec"][name] for name in ("clusterIP", "clusterIPs") if name in stored.body["spec"]}
    spec = body["spec"] if body["spec"].get("type") == "ExternalName" else {**kept, **body["spec"]}
    filled = fill_service({**body, "spec": _without_outside(spec, stored.body["spec"])})
    allocated = cluster.addresses.allocate(filled, stored.body)
    done = None
    try:
        done = _store(cluster, SERVICES, stored, allocated)
        return done
    finally:
        if done is None:
            cluster.addresses.undo(allocated, stored.body)


def _without_outside(spec: Object, old: Object) -> Object:
    """A Service that is no longer reached from outside loses what it was given for that."""
    if spec.get("type", "ClusterIP") in REACHED_FROM_OUTSIDE or old["type"] not in REACHED_FROM_OUTSIDE:
        return spec
    ports = [{key: value for key, value in port.items() if key != "nodePort"} for port in spec.get("ports", [])]
    return {**{key: value for key, value in spec.items() if key != "externalTrafficPolicy"}, "ports": ports}


def _store(cluster: Cluster, kind: Kind, stored: Stored, body: Object) -> Stored:
    if errors := _faults(kind, stored.body, body):
        raise invalid(kind.name, stored.name, errors)
    after = cluster.store.put(kind, body)
    ending = after.terminating and not after.metadata.get("finalizers")
    if ending and not after.metadata.get("deletionGracePeriodSeconds", 1):
        return cluster.store.remove(after)
    return after


def _faults(kind: Kind, old: Object, new: Object) -> list[FieldError]:
    errors = faults(kind, new)
    if kind is PODS:
        errors += pods.update_faults(old["spec"], new["spec"])
    if kind is SERVICES:
        errors += services.update_faults(old["spec"], new["spec"])
    return errors
