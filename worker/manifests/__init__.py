"""Pure: a record and the settings → the Pod and the Service that Kubernetes is asked for."""

from worker.manifests.pod import pod
from worker.manifests.service import service

__all__ = ["pod", "service"]
