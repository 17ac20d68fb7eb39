"""Deletion: at once, or gracefully if a kubelet must first stop containers.

The steps are those of `k8s.io/apiserver/pkg/registry/rest/delete.go` and of the Pod strategy's CheckGracefulDelete.
"""

import msgspec

from deploy.local.emulator.base.statuses import bad_request, conflict, forbidden, invalid, not_found, unsupported_value
from deploy.local.emulator.base.timestamps import now
from deploy.local.emulator.schemas.meta import ApiStruct
from deploy.local.emulator.storage.kinds import NAMESPACES, PODS, Kind
from deploy.local.emulator.storage.objects import Store, StoredObject

_POLICIES = ("Background", "Foreground", "Orphan")
_PERMANENT = ("default", "kube-system")


class Preconditions(ApiStruct):
    uid: str | None = None
    resource_version: str | None = None


class DeleteOptions(ApiStruct):
    grace_period_seconds: int | None = None
    preconditions: Preconditions | None = None
    propagation_policy: str | None = None
    orphan_dependents: bool | None = None


def read_options(body: bytes, query: dict[str, str]) -> DeleteOptions:
    """Read the options from the body, or from the query string if there is no body."""
    try:
        if body:
            options = msgspec.json.decode(body, type=DeleteOptions)
        else:
            parameters = {key: query[key] for key in ("gracePeriodSeconds", "propagationPolicy") if key in query}
            options = msgspec.convert(parameters, DeleteOptions, strict=False)
    except msgspec.DecodeError as error:
        raise bad_request(f"couldn't get version/kind; json parse error: {error}") from error
    if options.propagation_policy not in {None, *_POLICIES}:
        errors = [unsupported_value("propagationPolicy", options.propagation_policy, [*_POLICIES, "nil"])]
        raise invalid("DeleteOptions.meta.k8s.io", "", errors)
    return options


def find_deletable(store: Store, kind: Kind, namespace: str, name: str, options: DeleteOptions) -> StoredObject:
    """Return the object to delete.

    Raises:
        ApiError: 404, 403 for a permanent namespace, or 409 for a failed precondition.
    """
    stored = store.get(kind, namespace, name)
    if stored is None:
        raise not_found(kind.resource, name)
    if kind is NAMESPACES and name in _PERMANENT:
        raise forbidden("namespaces", name, "this namespace may not be deleted")
    _check_preconditions(stored, options)
    return stored


def delete(store: Store, stored: StoredObject, options: DeleteOptions) -> StoredObject:
    """Return the object as it is now, or as it was at its removal."""
    if stored.kind is NAMESPACES:
        return _terminate_namespace(store, stored)
    return _terminate_pod(store, stored, options) if stored.kind is PODS else _remove_or_terminate(store, stored)


def collect(store: Store, stored: StoredObject) -> None:
    """Delete an object as a controller does: with the default grace."""
    if store.get(stored.kind, *stored.key) is not None:
        options = DeleteOptions()
        delete(store, find_deletable(store, stored.kind, *stored.key, options), options)


def _check_preconditions(stored: StoredObject, options: DeleteOptions) -> None:
    preconditions = options.preconditions
    if preconditions is None:
        return
    if preconditions.uid is not None and preconditions.uid != stored.uid:
        detail = f"the UID in the precondition ({preconditions.uid}) does not match the UID in record ({stored.uid}). "
        raise conflict(stored.kind.name, stored.name, f"{detail}The object might have been deleted and then recreated")
    if preconditions.resource_version is not None and preconditions.resource_version != str(stored.version):
        detail = f"the ResourceVersion in the precondition ({preconditions.resource_version}) does not match "
        detail += f"the ResourceVersion in record ({stored.version}). The object might have been modified"
        raise conflict(stored.kind.name, stored.name, detail)


def _terminate_namespace(store: Store, stored: StoredObject) -> StoredObject:
    if stored.is_terminating:
        return stored
    metadata = {**stored.metadata, "deletionTimestamp": now()}
    return store.put(NAMESPACES, {**stored.body, "metadata": metadata, "status": {"phase": "Terminating"}})


def _remove_or_terminate(store: Store, stored: StoredObject) -> StoredObject:
    """Remove the object. With finalizers, only mark it as terminating."""
    if not stored.metadata.get("finalizers"):
        return store.remove(stored)
    if stored.is_terminating:
        return stored
    metadata = {**stored.metadata, "deletionTimestamp": now(), "deletionGracePeriodSeconds": 0}
    return store.put(stored.kind, {**stored.body, "metadata": metadata})


def _terminate_pod(store: Store, stored: StoredObject, options: DeleteOptions) -> StoredObject:
    grace = _grace_seconds(stored, options)
    if grace is None:
        return stored
    metadata = {**stored.metadata, "deletionTimestamp": now(grace), "deletionGracePeriodSeconds": grace}
    if not stored.is_terminating:
        metadata["generation"] += 1
    terminating = store.put(PODS, {**stored.body, "metadata": metadata})
    return terminating if grace or metadata.get("finalizers") else store.remove(terminating)


def _grace_seconds(stored: StoredObject, options: DeleteOptions) -> int | None:
    """Return the grace. None: the Pod terminates already, with a grace that is not longer."""
    requested = options.grace_period_seconds
    if requested is not None and requested < 0:
        requested = 1
    if stored.is_terminating:
        current = stored.metadata["deletionGracePeriodSeconds"]
        return requested if requested is not None and requested < current else None
    spec, status = stored.body["spec"], stored.body["status"]
    grace: int = requested if requested is not None else spec["terminationGracePeriodSeconds"]
    if "nodeName" not in spec or status["phase"] in {"Failed", "Succeeded"}:
        return 0
    return grace if grace >= 0 else 1
