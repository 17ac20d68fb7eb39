r"""Paths on a Kubernetes node, which can run another system than this process. A path keeps its style.

`C:\deer-flow` and `\\server\share` are Windows paths, all other paths are POSIX. No function here reads a file system.
"""

import ntpath
import posixpath
import re
from types import ModuleType

_WINDOWS = re.compile(r"^(?:[A-Za-z]:[\\/]|\\\\)")


def _flavour(path: str) -> ModuleType:
    return ntpath if _WINDOWS.match(path) else posixpath


def _separators(flavour: ModuleType) -> str:
    """Return the characters that separate names. On POSIX a backslash is part of a name."""
    return "/\\" if flavour is ntpath else "/"


def is_absolute(path: str) -> bool:
    return bool(_WINDOWS.match(path)) or path.startswith("/")


def normalise(path: str) -> str:
    """Remove `.`, `..`, and doubled or trailing separators, to get the path that the node would open."""
    normal = str(_flavour(path).normpath(path))
    # POSIX lets a system give a leading `//` its own meaning. Nodes treat it like `/`.
    return normal[1:] if normal.startswith("//") else normal


def join(base: str, *parts: str) -> str:
    """Append `parts` to `base`, with the separators that `base` has."""
    flavour = _flavour(base)
    if flavour is ntpath and "/" in base and "\\" not in base:
        return posixpath.join(base, *parts)
    return str(flavour.join(base, *parts))


def dirname(path: str) -> str:
    return str(_flavour(path).dirname(path.rstrip(_separators(_flavour(path)))))


def basename(path: str) -> str:
    return str(_flavour(path).basename(path.rstrip(_separators(_flavour(path)))))


def relative_to(path: str, base: str) -> str | None:
    """Return the part of `path` below `base`, separated by `/`; None if `path` is not below `base`.

    Both paths are normalised first.

    >>> relative_to("/srv/a/../b/c", "/srv/b")
    'c'
    """
    flavour = _flavour(base)
    if _flavour(path) is not flavour:
        return None
    fold, separators = (ntpath.normcase, r"[\\/]+") if flavour is ntpath else (str, "/+")
    parts, base_parts = (re.split(separators, normalise(p).rstrip(_separators(flavour))) for p in (path, base))
    if [fold(p) for p in parts[: len(base_parts)]] != [fold(p) for p in base_parts] or len(parts) == len(base_parts):
        return None
    return "/".join(parts[len(base_parts) :])
