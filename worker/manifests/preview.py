"""Preview of the objects that a request creates: `python -m worker --print-manifest < request.json`."""

import time

import msgspec
import yaml

from shared.sandbox import mounts
from shared.sandbox.request import read_create
from shared.sandbox.transitions import new_record
from shared.settings import Settings
from worker import manifests

UNKNOWN_ID = "server-made-id"
UNKNOWN_UID = "the-uid-that-kubernetes-gives-the-pod"


def preview(body: bytes, settings: Settings) -> str:
    """Return the Pod and the Service of the id's first incarnation as two YAML documents.

    Raises:
        InvalidRequest: the API refuses this request, too.
    """
    request = read_create(body)
    spec = request.spec()
    mounts.check_mounts(spec.extra_mounts, settings)
    record = new_record(request.sandbox_id or UNKNOWN_ID, spec, cluster=settings.cluster_name, now=time.time())
    objects = (manifests.pod(record, settings), manifests.service(record, UNKNOWN_UID, settings))
    documents = [msgspec.to_builtins(manifest) for manifest in objects]
    return str(yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=True))
