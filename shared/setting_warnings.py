"""Warnings about settings: variables that look like a setting, and settings that another setting overrides."""

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches

from shared.settings import TABLE, Settings

_NAMES = tuple(row.name for row in TABLE)
_PREFIXES = ("SANDBOX_", "K8S_")
"""Prefixes that only settings have. DeerFlow, Redis and compose have variables of their own with the others."""
_SIMILAR = 0.85
"""Smallest likeness of a misspelled name. `KUBECONFIG`, which kubectl reads, has 0.8 to `KUBECONFIG_PATH`."""
_SIMILAR_WITH_PREFIX = 0.75
"""The same for a name with one of the prefixes. It covers a unit that is left out."""
_INJECTED = re.compile(r"_SERVICE_(HOST|PORT\w*)$|_PORT_\d+_(TCP|UDP|SCTP)\w*$")
"""Variables that Kubernetes adds to each Pod for the Services of its namespace."""


def misspelled(environment: Mapping[str, str]) -> Iterator[str]:
    """Yield a sentence for each variable that no process reads and that resembles the name of a setting."""
    for name in sorted(set(environment).difference(_NAMES)):
        is_file = name.endswith("_FILE") and name.removesuffix("_FILE") in _NAMES
        if is_file or not environment[name].strip() or _is_injected(name, environment[name]):
            continue
        likeness = _SIMILAR_WITH_PREFIX if name.upper().startswith(_PREFIXES) else _SIMILAR
        for nearest in get_close_matches(name.upper(), _NAMES, n=1, cutoff=likeness):
            yield f"{name} has no effect: there is no such setting. The nearest name is {nearest}."


def _is_injected(name: str, value: str) -> bool:
    return bool(_INJECTED.search(name)) or (name.endswith("_PORT") and "://" in value)


def without_effect(settings: Settings) -> Iterator[str]:
    """Yield a sentence for each setting that has no effect because of another."""
    if settings.skills_pvc_name and settings.skills_host_path:
        yield "SKILLS_HOST_PATH has no effect beside SKILLS_PVC_NAME"
    if settings.userdata_pvc_name and settings.threads_host_path and settings.deer_flow_host_base_dir:
        yield "THREADS_HOST_PATH has no effect beside USERDATA_PVC_NAME and DEER_FLOW_HOST_BASE_DIR"
    if settings.skills_pvc_subpath_template and not settings.skills_pvc_name:
        yield "SKILLS_PVC_SUBPATH_TEMPLATE has no effect without SKILLS_PVC_NAME"
