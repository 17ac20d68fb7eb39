"""`python -m worker --print-manifest < request.json`: what would be created for a request, for people to read first."""

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
    """Pod and Service of a first life, as two YAML documents.

    Raises:
        InvalidRequest: the API would refuse this request, too.
    """
    asked = read_create(body)
    spec = asked.spec()
    mounts.check_mounts(spec.extra_mounts, settings)
    record = new_record(asked.sandbox_id or UNKNOWN_ID, spec, cluster=settings.cluster_name, now=time.time())
    made = [manifests.pod(record, settings), manifests.service(record, UNKNOWN_UID, settings)]
    return str(yaml.safe_dump_all([msgspec.to_builtins(thing) for thing in made], sort_keys=False, allow_unicode=True))
