"""Images as a node names and lists them."""

import hashlib

from deploy.local.emulator.base.statuses import Object

_BYTES = 200_000_000  # size of each image; the emulator knows no real one


def full_reference(image: str) -> str:
    """Add registry and tag, as containerd does."""
    host, slash, _ = image.partition("/")
    if not slash:
        image = f"docker.io/library/{image}"
    elif not set(".:") & set(host) and host != "localhost":
        image = f"docker.io/{image}"
    return image if ":" in image.rpartition("/")[2] or "@" in image else f"{image}:latest"


def image_status(reference: str) -> Object:
    """Return the entry of a node's `status.images`: named by digest, and by tag if it was pulled by tag."""
    name, _, digest = reference.partition("@")
    start, slash, end = name.rpartition("/")
    bare = f"{start}{slash}{end.partition(':')[0]}"
    by_digest = f"{bare}@{digest or 'sha256:' + hashlib.sha256(reference.encode()).hexdigest()}"
    return {"names": [by_digest] if digest else [by_digest, reference], "sizeBytes": _BYTES}
