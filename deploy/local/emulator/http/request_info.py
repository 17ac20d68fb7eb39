"""Paths and query strings: what a request is about."""

from dataclasses import dataclass
from urllib.parse import parse_qsl

from deploy.local.emulator.base.statuses import bad_request, forbidden_value, invalid, method_not_allowed
from deploy.local.emulator.storage.kinds import KINDS, NAMESPACES, PODS, SERVICES, Kind
from deploy.local.emulator.storage.selectors import Selection, parse_fields, parse_labels

_PREFIX = ["api", "v1"]
_WITH_STATUS = (PODS, SERVICES, NAMESPACES)
_COLLECTION_VERBS = {"GET": "list", "POST": "create", "DELETE": "deletecollection"}
_OBJECT_VERBS = {"GET": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_TRUE = ("true", "1", "True", "t")


@dataclass(frozen=True, slots=True)
class Target:
    kind: Kind
    namespace: str = ""  # "" with a namespaced kind: all of them
    name: str = ""  # "": the collection
    status: bool = False  # the subresource

    def verb(self, method: str, *, watch: bool) -> str:
        verb = (_OBJECT_VERBS if self.name else _COLLECTION_VERBS).get(method)
        everywhere = self.kind.namespaced and not self.namespace
        if verb is None or (everywhere and verb != "list") or (self.status and verb == "delete"):
            raise method_not_allowed()
        return "watch" if watch and verb == "list" else verb


def parse(path: str) -> Target | None:
    """None: there is no such path."""
    parts = path.strip("/").split("/")
    if parts[:2] != _PREFIX or not all(parts):
        return None
    rest = parts[2:]
    if len(rest) > 2 and rest[0] == "namespaces" and rest[2] != "status":  # noqa: PLR2004 - namespaces/NAME/more
        return _resource(rest[2:], rest[1])
    return _resource(rest, "")


def _resource(parts: list[str], namespace: str) -> Target | None:
    kind = KINDS.get(parts[0]) if parts else None
    if kind is None or (namespace and not kind.namespaced):
        return None
    if len(parts) == 1:
        return Target(kind, namespace)
    if kind.namespaced and not namespace:
        return None
    name, *sub = parts[1:]
    if sub and (sub != ["status"] or kind not in _WITH_STATUS):
        return None
    return Target(kind, namespace, name, bool(sub))


class Query:
    """A query string, with the reading of each parameter that lists and watches know."""

    def __init__(self, text: str) -> None:
        self.given = dict(parse_qsl(text, keep_blank_values=True)) if text else {}

    def flag(self, name: str) -> bool:
        return self.given.get(name, "") in _TRUE

    def number(self, name: str) -> int | None:
        text = self.given.get(name, "")
        if not text:
            return None
        if not text.isascii() or not text.isdigit():
            raise bad_request(f'{name}: Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax')
        return int(text)

    def selection(self, target: Target) -> Selection:
        labels = parse_labels(self.given.get("labelSelector", ""))
        fields = parse_fields(target.kind, self.given.get("fieldSelector", ""))
        return Selection(target.kind, target.namespace or None, labels, fields)

    def check_versions(self) -> None:
        """Which parameters go together: `ValidateListOptions`, 422."""
        match, version = self.given.get("resourceVersionMatch", ""), self.given.get("resourceVersion", "")
        words = ""
        if match and not version and not self.flag("sendInitialEvents"):
            words = "resourceVersionMatch is forbidden unless resourceVersion is provided"
        elif match and self.given.get("continue"):
            words = "resourceVersionMatch is forbidden when continue is provided"
        elif match not in {"", "Exact", "NotOlderThan"}:
            words = f'resourceVersionMatch: Unsupported value: "{match}"'
        elif match == "Exact" and version == "0":
            words = 'resourceVersionMatch "exact" is forbidden for resourceVersion "0"'
        if words:
            raise invalid("ListOptions.meta.k8s.io", "", [forbidden_value("resourceVersionMatch", words)])
