"""Errors of calls to Kubernetes. All exceptions of a request stop at `worker.kubernetes.http`."""

from shared.errors import ProvisionerError

NO_ANSWER = 0
"""`http_status` of a call without an HTTP answer."""
TIMED_OUT = "TimedOut"
"""`reason` of a call that reached its timeout."""
NOT_KUBERNETES = "NotKubernetes"
"""`reason` if the answer is not Kubernetes' JSON, for example the HTML page of a proxy."""


class KubernetesError(ProvisionerError):
    """A refused or unanswered call.

    `reason` is that of Kubernetes' Status, a constant of this module, or the name of an exception of the connection.
    If `http_status` is `NO_ANSWER`, the call timed out, or its connection was refused or lost. The call may have had
    its effect. `retry_after` is the server's Retry-After, in seconds. `is_lasting` is True for a 401 or 403 that this
    client has met for a while (`worker.kubernetes.denials`).
    """

    code = "kubernetes_error"

    def __init__(self, http_status: int, reason: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.http_status = http_status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after
        self.is_lasting = False

    def __str__(self) -> str:
        return f"{self.http_status or 'no answer'} {self.reason}: {self.message}"


class AlreadyExists(KubernetesError):
    """409 of a create: an object with this name exists. The object may be terminating."""


class NamespaceMissing(KubernetesError):
    """404 of a create."""


class Expired(KubernetesError):
    """410: the resourceVersion is too old to continue from. The caller must list again."""
