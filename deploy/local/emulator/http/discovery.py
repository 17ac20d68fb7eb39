"""Version, health, API groups and resources, and access reviews."""

import msgspec

from deploy.local.emulator.base.faults import Faults, FaultTarget
from deploy.local.emulator.base.statuses import Object, bad_request
from deploy.local.emulator.storage.kinds import KINDS

VERSION = {
    "major": "1",
    "minor": "36",
    "emulationMajor": "1",
    "emulationMinor": "36",
    "minCompatibilityMajor": "1",
    "minCompatibilityMinor": "35",
    "gitVersion": "v1.36.2",
    "gitCommit": "98b35193b2ac7a23a673325f5e9b830ecd5ba406",
    "gitTreeState": "clean",
    "buildDate": "2026-08-21T00:00:00Z",
    "goVersion": "go1.26.6",
    "compiler": "gc",
    "platform": "linux/amd64",
}
HEALTH = ("/healthz", "/livez", "/readyz")
ACCESS_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"

_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
_AUTHORIZATION_VERSION = {"groupVersion": "authorization.k8s.io/v1", "version": "v1"}
_ALLOWED = (
    'RBAC: allowed by ClusterRoleBinding "emulated-cluster-admin" of ClusterRole "cluster-admin" to ServiceAccount '
)
_ALLOWED += '"kube-system/emulated"'


def _resources() -> list[Object]:
    return [
        {
            "name": kind.resource,
            "singularName": kind.name.lower(),
            "namespaced": kind.namespaced,
            "kind": kind.name,
            "verbs": _VERBS,
        }
        for kind in KINDS.values()
    ]


def _resource_list(version: str, resources: list[Object]) -> Object:
    return {"kind": "APIResourceList", "groupVersion": version, "resources": resources}


_REVIEW: Object = {
    "name": "selfsubjectaccessreviews",
    "singularName": "selfsubjectaccessreview",
    "namespaced": False,
    "kind": "SelfSubjectAccessReview",
    "verbs": ["create"],
}
_GROUP: Object = {
    "name": "authorization.k8s.io",
    "versions": [_AUTHORIZATION_VERSION],
    "preferredVersion": _AUTHORIZATION_VERSION,
}

DOCUMENTS: dict[str, Object] = {
    "/version": VERSION,
    "/api": {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []},
    "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_GROUP]},
    "/api/v1": _resource_list("v1", _resources()),
    "/apis/authorization.k8s.io": {"kind": "APIGroup", "apiVersion": "v1", **_GROUP},
    "/apis/authorization.k8s.io/v1": _resource_list("authorization.k8s.io/v1", [_REVIEW]),
}


def review_access(body: bytes, faults: Faults) -> Object:
    """Review the access of the only user, an administrator. A fault that always answers 403 denies access."""
    try:
        request = msgspec.json.decode(body, type=dict)
    except msgspec.DecodeError as error:
        raise bad_request(f"couldn't get version/kind; json parse error: {error}") from error
    review = {"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "metadata": {}}
    spec = request.get("spec", {})
    attributes = spec.get("resourceAttributes", {})
    target = FaultTarget(**{name: attributes.get(name, "") for name in ("verb", "resource", "namespace", "name")})
    status: Object = {"allowed": False} if faults.forbids(target) else {"allowed": True, "reason": _ALLOWED}
    return {**review, "spec": spec, "status": status}
