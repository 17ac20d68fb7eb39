"""Builds the manifests of a sandbox's Pod and Service from its record and the settings. Pure."""

from worker.manifests.pod import pod
from worker.manifests.service import service

__all__ = ["pod", "service"]
