"""Random ids: uids, suffixes of generated names, container ids."""

from random import Random
from uuid import UUID

_LETTERS = "bcdfghjklmnpqrstvwxz2456789"  # without vowels and look-alikes, as in k8s.io/apimachinery/pkg/util/rand
_SUFFIX = 5
_GENERATED_MAX = 63 - _SUFFIX
_UUID_BITS = 128
_ID_BITS = 256


def uid(random: Random) -> str:
    return str(UUID(int=random.getrandbits(_UUID_BITS), version=4))


def suffix(random: Random) -> str:
    return "".join(random.choices(_LETTERS, k=_SUFFIX))


def generated_name(prefix: str, random: Random) -> str:
    return prefix[:_GENERATED_MAX] + suffix(random)


def container_id(random: Random) -> str:
    return f"containerd://{random.getrandbits(_ID_BITS):064x}"
