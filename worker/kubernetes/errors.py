"""What Kubernetes refuses, or does not answer: the client library's exceptions stop at `worker.kubernetes.client`."""

from shared.errors import ProvisionerError

NO_ANSWER = 0
TIMED_OUT = "TimedOut"
NOT_KUBERNETES = "NotKubernetes"


class KubernetesError(ProvisionerError):
    """`http_status` is `NO_ANSWER` when none came: a timeout, a lost or refused connection.

    The call may then have had its effect all the same. `retry_after` is in seconds, if the server named it.
    """

    code = "kubernetes_error"

    def __init__(self, http_status: int, reason: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.http_status = http_status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.http_status or 'no answer'} {self.reason}: {self.message}"


class AlreadyExists(KubernetesError):
    """409 on create: an object of this name is there, perhaps terminating."""


class NamespaceMissing(KubernetesError):
    """404 on create."""


class Expired(KubernetesError):
    """410: the resourceVersion to continue from is too old; list again."""
