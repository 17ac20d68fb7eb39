r"""Paths on a Kubernetes node, which may run another system than we do: POSIX or Windows, each keeping its style.

`C:\deer-flow` and `\\server\share` are Windows paths; all else is POSIX. Nothing here touches a file system.
"""

import ntpath
import posixpath
import re
from types import ModuleType

_WINDOWS = re.compile(r"^(?:[A-Za-z]:[\\/]|\\\\)")


def _flavour(path: str) -> ModuleType:
    return ntpath if _WINDOWS.match(path) else posixpath


def _expiries(flavour: ModuleType) -> str:
    """Separators: on POSIX a backslash is a letter like any other."""
    return "/\\" if flavour is ntpath else "/"


def is_absolute(path: str) -> bool:
    return bool(_WINDOWS.match(path)) or path.startswith("/")


def normalise(path: str) -> str:
    """Without `.`, `..`, doubled or trailing separators: what the node would open."""
    normal = str(_flavour(path).normpath(path))
    return (
        normal[1:] if normal.startswith("//") else normal
    )  # POSIX leaves a leading `//` to the system; no node means it


def join(base: str, *parts: str) -> str:
    """`parts` below `base`, with the separators that `base` uses."""
    flavour = _flavour(base)
    if flavour is ntpath and "/" in base and "\\" not in base:
        return posixpath.join(base, *parts)
    return str(flavour.join(base, *parts))


def dirname(path: str) -> str:
    return str(_flavour(path).dirname(path.rstrip(_expiries(_flavour(path)))))


def basename(path: str) -> str:
    return str(_flavour(path).basename(path.rstrip(_expiries(_flavour(path)))))


def relative_to(path: str, base: str) -> str | None:
    """The part of `path` below `base`, `/`-separated; None when it is not below it once both are normalised.

    >>> below("/srv/a/../b/c", "/srv/b")
    'c'
    """
    flavour = _flavour(base)
    if _flavour(path) is not flavour:
        return None
    fold, separators = (ntpath.normcase, r"[\\/]+") if flavour is ntpath else (str, "/+")
    parts, base_parts = (re.split(separators, normalise(p).rstrip(_expiries(flavour))) for p in (path, base))
    if [fold(p) for p in parts[: len(base_parts)]] != [fold(p) for p in base_parts] or len(parts) == len(base_parts):
        return None
    return "/".join(parts[len(base_parts) :])
