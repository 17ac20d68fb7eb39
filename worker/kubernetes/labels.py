"""Labels and annotations of the sandboxes' objects: to find and select objects, and to rebuild a lost record."""

import msgspec

from shared.sandbox.record import Sandbox, Spec
from shared.sandbox.request import TEXT_RULES
from worker.kubernetes.objects import ObjectMeta

APP = "deer-flow-sandbox"
SELECTOR = f"app={APP}"
"""Label selector of every sandbox's Pod and Service, those of the legacy provisioner included."""
SANDBOX_ID = "sandbox-id"
INCARNATION = "provisioner.deer-flow/incarnation"
RECORD = "provisioner.deer-flow/record"
_LEGACY_PREFIX = "1-legacy-"
"""Prefix of the incarnation names of legacy Pods, followed by a part of the uid. Generation 1 fits the Pod's name."""


def labels(record: Sandbox) -> dict[str, str]:
    """Return the four labels that DeerFlow sets, and the incarnation."""
    return {
        "app": APP,
        SANDBOX_ID: record.id,
        "app.kubernetes.io/name": "deer-flow",
        "app.kubernetes.io/component": "sandbox",
        INCARNATION: record.incarnation,
    }


def selector(record: Sandbox) -> dict[str, str]:
    """Return the Service's Pod selector. The incarnation keeps traffic from the id's terminating old Pods.

    A legacy Pod has no incarnation label, so only its id can be selected.
    """
    by_id = {SANDBOX_ID: record.id}
    is_of_legacy_pod = record.incarnation.startswith(_LEGACY_PREFIX)
    return by_id if is_of_legacy_pod else {**by_id, INCARNATION: record.incarnation}


def incarnation_of(pod: ObjectMeta) -> str:
    """Return the incarnation on the Pod's label or, for a legacy Pod, a name made from the uid."""
    return pod.labels.get(INCARNATION) or legacy_incarnation(pod)


def is_pod_of(pod: ObjectMeta, sandbox_id: str, incarnation: str) -> bool:
    return pod.labels.get(SANDBOX_ID) == sandbox_id and incarnation_of(pod) == incarnation


def is_service_of(service: ObjectMeta, sandbox_id: str, incarnation: str) -> bool:
    """Return True if a Service was created for this incarnation.

    A legacy Service has no incarnation label. It belongs to the id's legacy Pod, because an id has only one of each.
    """
    if service.labels.get(SANDBOX_ID) != sandbox_id:
        return False
    is_of_legacy_pod = is_legacy(service) and incarnation.startswith(_LEGACY_PREFIX)
    return is_of_legacy_pod or service.labels.get(INCARNATION) == incarnation


def is_owned_by(service: ObjectMeta, pod: ObjectMeta) -> bool:
    """Return True if this Pod owns the Service. A legacy Service has no owner, so the ids are compared."""
    if service.owner_references:
        return any(owner.uid == pod.uid for owner in service.owner_references)
    return is_legacy(service) and is_legacy(pod) and service.labels.get(SANDBOX_ID) == pod.labels.get(SANDBOX_ID)


def is_legacy(metadata: ObjectMeta) -> bool:
    """Return True for an object of DeerFlow's legacy provisioner, which sets no incarnation label."""
    return INCARNATION not in metadata.labels


def legacy_incarnation(metadata: ObjectMeta) -> str:
    """Return the incarnation name of a legacy object. No other incarnation has a name of this form."""
    return f"{_LEGACY_PREFIX}{metadata.uid[:8]}"


class Origin(msgspec.Struct, frozen=True, omit_defaults=True):
    """Facts that only the record holds, copied to an annotation of the Pod in case Redis loses the record.

    `created_at` is in seconds since the epoch.
    """

    spec: Spec
    created_at: float


class AnnotationUnreadable(Exception):
    """The annotation is nested more deeply than any text of this service or of a person: the Pod is left alone."""


def origin(pod: ObjectMeta) -> Origin | None:
    """Return None if the annotation is missing, or is not as this service writes it.

    Raises:
        AnnotationUnreadable: the annotation must have been made to break its readers.
    """
    text = pod.annotations.get(RECORD, "")
    try:
        msgspec.json.decode(text)  # looks at every level, where the types below end the search at the first error
        found = msgspec.json.decode(text, type=Origin)
    except RecursionError as error:
        raise AnnotationUnreadable(f"the annotation {RECORD} is nested too deeply") from error
    except ValueError:
        return None
    return found if _is_valid(found.spec) else None


def _is_valid(spec: Spec) -> bool:
    """Return True if the texts of a spec keep the rules of a request. The decoder has checked the numbers."""
    texts = {field: getattr(spec, field) for field in ("user_id", "thread_id")}
    return all(text is None or TEXT_RULES[field].accepts(text) for field, text in texts.items())


def annotations(record: Sandbox) -> dict[str, str]:
    return {RECORD: msgspec.json.encode(Origin(record.spec, record.created_at)).decode()}
