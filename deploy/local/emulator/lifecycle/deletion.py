"""Deleting: at once, or gracefully where a kubelet must first stop what runs.

The steps are those of `k8s.io/apiserver/pkg/registry/rest/delete.go` and of the Pod strategy's CheckGracefulDelete.
"""

import msgspec

from deploy.local.emulator.base.statuses import bad_request, conflict, forbidden, invalid, not_found, unsupported_value
from deploy.local.emulator.base.timestamps import now
from deploy.local.emulator.schemas.meta import Shape
from deploy.local.emulator.storage.kinds import NAMESPACES, PODS, Kind
from deploy.local.emulator.storage.objects import Store, Stored

_POLICIES = ("Background", "Foreground", "Orphan")
_PERMANENT = ("default", "kube-system")


class Preconditions(Shape):
    uid: str | None = None
    resource_version: str | None = None


class DeleteOptions(Shape):
    grace_period_seconds: int | None = None
    preconditions: Preconditions | None = None
    propagation_policy: str | None = None
    orphan_dependents: bool | None = None


def read_options(body: bytes, query: dict[str, str]) -> DeleteOptions:
    """Of the body where there is one, else of the query string."""
    try:
        if body:
            options = msgspec.json.decode(body, type=DeleteOptions)
        else:
            given = {key: query[key] for key in ("gracePeriodSeconds", "propagationPolicy") if key in query}
            options = msgspec.convert(given, DeleteOptions, strict=False)
    except msgspec.DecodeError as error:
        raise bad_request(f"couldn't get version/kind; json parse error: {error}") from error
    if options.propagation_policy not in {None, *_POLICIES}:
        errors = [unsupported_value("propagationPolicy", options.propagation_policy, [*_POLICIES, "nil"])]
        raise invalid("DeleteOptions.meta.k8s.io", "", errors)
    return options


def find_deletable(store: Store, kind: Kind, namespace: str, name: str, options: DeleteOptions) -> Stored:
    """Return the object, if these options permit its deletion."""
    stored = store.get(kind, namespace, name)
    if stored is None:
        raise not_found(kind.resource, name)
    if kind is NAMESPACES and name in _PERMANENT:
        raise forbidden("namespaces", name, "this namespace may not be deleted")
    _check_preconditions(stored, options)
    return stored


def delete(store: Store, stored: Stored, options: DeleteOptions) -> Stored:
    """Return the object as it is now, or as it was at its removal."""
    if stored.kind is NAMESPACES:
        return _end_namespace(store, stored)
    return _end_pod(store, stored, options) if stored.kind is PODS else _end(store, stored)


def collect(store: Store, stored: Stored) -> None:
    """Delete an object as a controller does: with the default grace."""
    if store.get(stored.kind, *stored.key) is not None:
        options = DeleteOptions()
        delete(store, find_deletable(store, stored.kind, *stored.key, options), options)


def _check_preconditions(stored: Stored, options: DeleteOptions) -> None:
    wanted = options.preconditions
    if wanted is None:
        return
    if wanted.uid is not None and wanted.uid != stored.uid:
        why = f"the UID in the precondition ({wanted.uid}) does not match the UID in record ({stored.uid}). "
        raise conflict(stored.kind.name, stored.name, f"{why}The object might have been deleted and then recreated")
    if wanted.resource_version is not None and wanted.resource_version != str(stored.version):
        why = f"the ResourceVersion in the precondition ({wanted.resource_version}) does not match "
        why += f"the ResourceVersion in record ({stored.version}). The object might have been modified"
        raise conflict(stored.kind.name, stored.name, why)


def _end_namespace(store: Store, stored: Stored) -> Stored:
    if stored.terminating:
        return stored
    metadata = {**stored.metadata, "deletionTimestamp": now()}
    return store.put(NAMESPACES, {**stored.body, "metadata": metadata, "status": {"phase": "Terminating"}})


def _end(store: Store, stored: Stored) -> Stored:
    """At once, or when the last finalizer is gone."""
    if not stored.metadata.get("finalizers"):
        return store.remove(stored)
    if stored.terminating:
        return stored
    ending = {**stored.metadata, "deletionTimestamp": now(), "deletionGracePeriodSeconds": 0}
    return store.put(stored.kind, {**stored.body, "metadata": ending})


def _end_pod(store: Store, stored: Stored, options: DeleteOptions) -> Stored:
    grace = _grace(stored, options)
    if grace is None:
        return stored
    metadata = {**stored.metadata, "deletionTimestamp": now(grace), "deletionGracePeriodSeconds": grace}
    if not stored.terminating:
        metadata["generation"] += 1
    ending = store.put(PODS, {**stored.body, "metadata": metadata})
    return ending if grace or metadata.get("finalizers") else store.remove(ending)


def _grace(stored: Stored, options: DeleteOptions) -> int | None:
    """Seconds; None when it is terminating already and is not asked to hurry."""
    asked = options.grace_period_seconds
    if asked is not None and asked < 0:
        asked = 1
    if stored.terminating:
        given = stored.metadata["deletionGracePeriodSeconds"]
        return asked if asked is not None and asked < given else None
    spec, status = stored.body["spec"], stored.body["status"]
    grace: int = asked if asked is not None else spec["terminationGracePeriodSeconds"]
    if "nodeName" not in spec or status["phase"] in {"Failed", "Succeeded"}:
        return 0
    return grace if grace >= 0 else 1
