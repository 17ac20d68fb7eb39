"""Images as a node names them, and tells which of them it has."""

import hashlib

from deploy.local.emulator.base.statuses import Object

_BYTES = 200_000_000  # of each, as far as anybody can tell


def full_reference(image: str) -> str:
    """With registry and tag, as containerd completes it."""
    host, slash, _ = image.partition("/")
    if not slash:
        image = f"docker.io/library/{image}"
    elif not set(".:") & set(host) and host != "localhost":
        image = f"docker.io/{image}"
    return image if ":" in image.rpartition("/")[2] or "@" in image else f"{image}:latest"


def image_status(full: str) -> Object:
    """One entry of a node's `status.images`: by digest, and by tag if it was pulled by that."""
    name, _, digest = full.partition("@")
    start, slash, end = name.rpartition("/")
    bare = f"{start}{slash}{end.partition(':')[0]}"
    by_digest = f"{bare}@{digest or 'sha256:' + hashlib.sha256(full.encode()).hexdigest()}"
    return {"names": [by_digest] if digest else [by_digest, full], "sizeBytes": _BYTES}
