"""The target of a request, from its path and query string."""

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
class RequestInfo:
    kind: Kind
    namespace: str = ""  # "" with a namespaced kind: all namespaces
    name: str = ""  # "": all objects
    status: bool = False  # the subresource `status`

    def verb(self, method: str, *, watch: bool) -> str:
        verb = (_OBJECT_VERBS if self.name else _COLLECTION_VERBS).get(method)
        is_all_namespaces = self.kind.namespaced and not self.namespace
        if verb is None or (is_all_namespaces and verb != "list") or (self.status and verb == "delete"):
            raise method_not_allowed()
        return "watch" if watch and verb == "list" else verb


def parse_path(path: str) -> RequestInfo | None:
    """Return None if the path does not exist."""
    parts = path.strip("/").split("/")
    if parts[:2] != _PREFIX or not all(parts):
        return None
    names = parts[2:]
    if len(names) > 2 and names[0] == "namespaces" and names[2] != "status":  # noqa: PLR2004 - namespaces/NAME/more
        return _parse_resource(names[2:], names[1])
    return _parse_resource(names, "")


def _parse_resource(parts: list[str], namespace: str) -> RequestInfo | None:
    kind = KINDS.get(parts[0]) if parts else None
    if kind is None or (namespace and not kind.namespaced):
        return None
    if len(parts) == 1:
        return RequestInfo(kind, namespace)
    if kind.namespaced and not namespace:
        return None
    name, *subresource = parts[1:]
    if subresource and (subresource != ["status"] or kind not in _WITH_STATUS):
        return None
    return RequestInfo(kind, namespace, name, bool(subresource))


class Query:
    """The query string of a list or a watch."""

    def __init__(self, text: str) -> None:
        self.parameters = dict(parse_qsl(text, keep_blank_values=True)) if text else {}

    def flag(self, name: str) -> bool:
        return self.parameters.get(name, "") in _TRUE

    def number(self, name: str) -> int | None:
        text = self.parameters.get(name, "")
        if not text:
            return None
        if not text.isascii() or not text.isdigit():
            raise bad_request(f'{name}: Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax')
        return int(text)

    def selection(self, info: RequestInfo) -> Selection:
        labels = parse_labels(self.parameters.get("labelSelector", ""))
        fields = parse_fields(info.kind, self.parameters.get("fieldSelector", ""))
        return Selection(info.kind, info.namespace or None, labels, fields)

    def check_version_parameters(self) -> None:
        """Check the combination of parameters, as `ValidateListOptions`.

        Raises:
            ApiError: 422.
        """
        match, version = self.parameters.get("resourceVersionMatch", ""), self.parameters.get("resourceVersion", "")
        detail = ""
        if match and not version and not self.flag("sendInitialEvents"):
            detail = "resourceVersionMatch is forbidden unless resourceVersion is provided"
        elif match and self.parameters.get("continue"):
            detail = "resourceVersionMatch is forbidden when continue is provided"
        elif match not in {"", "Exact", "NotOlderThan"}:
            detail = f'resourceVersionMatch: Unsupported value: "{match}"'
        elif match == "Exact" and version == "0":
            detail = 'resourceVersionMatch "exact" is forbidden for resourceVersion "0"'
        if detail:
            raise invalid("ListOptions.meta.k8s.io", "", [forbidden_value("resourceVersionMatch", detail)])
