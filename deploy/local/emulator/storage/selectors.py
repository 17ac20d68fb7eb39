"""Label and field selectors."""

import re
from dataclasses import dataclass, field

from deploy.local.emulator.base.names import validate_label_key, validate_label_value
from deploy.local.emulator.base.statuses import ApiError, bad_request
from deploy.local.emulator.storage.kinds import EVENTS, NAMESPACES, PODS, SERVICES, Kind
from deploy.local.emulator.storage.objects import StoredObject

_SET_BASED = re.compile(r"^(?P<key>\S+)\s+(?P<operator>in|notin)\s*\((?P<values>[^()]*)\)$")
_EQUALITY = re.compile(r"^(?P<key>[^=!\s]+)\s*(?P<operator>==|=|!=)\s*(?P<value>.*)$", re.DOTALL)
_EXISTS = re.compile(r"^(?P<absent>!?)\s*(?P<key>[^=!\s(),]+)$")
_COMMA_OUTSIDE_BRACKETS = re.compile(r",(?![^()]*\))")


@dataclass(frozen=True, slots=True)
class LabelRequirement:
    """A term of a label selector. `values` is None if any value matches."""

    key: str
    values: frozenset[str] | None
    is_positive: bool  # False: `!=`, `notin`, `!key`

    def matches(self, labels: dict[str, str]) -> bool:
        value = labels.get(self.key)
        is_match = value is not None and (self.values is None or value in self.values)
        return is_match is self.is_positive


def parse_labels(text: str) -> tuple[LabelRequirement, ...]:
    terms = [term.strip() for term in _COMMA_OUTSIDE_BRACKETS.split(text)] if text.strip() else []
    return tuple(_requirement(term) for term in terms)


def _requirement(term: str) -> LabelRequirement:
    if match := _SET_BASED.match(term):
        values = frozenset(value.strip() for value in match["values"].split(","))
        return _check(LabelRequirement(match["key"], values, match["operator"] == "in"))
    if match := _EQUALITY.match(term):
        values = frozenset([match["value"].strip()])
        return _check(LabelRequirement(match["key"], values, match["operator"] != "!="))
    if match := _EXISTS.match(term):
        return _check(LabelRequirement(match["key"], None, not match["absent"]))
    raise bad_request(f"unable to parse requirement: found '{term}', expected: a label selector term")


def _check(requirement: LabelRequirement) -> LabelRequirement:
    for error in validate_label_key(requirement.key):
        raise bad_request(f'unable to parse requirement: key: Invalid value: "{requirement.key}": {error}')
    for value in sorted(requirement.values or ()):
        for error in validate_label_value(value):
            raise bad_request(
                f'unable to parse requirement: values[0][{requirement.key}]: Invalid value: "{value}": {error}'
            )
    return requirement


@dataclass(frozen=True, slots=True)
class FieldRequirement:
    field: str
    value: str
    is_positive: bool


def parse_fields(kind: Kind, text: str) -> tuple[FieldRequirement, ...]:
    return tuple(_field_term(kind, term) for term in text.split(",") if term)


def _field_term(kind: Kind, term: str) -> FieldRequirement:
    match = re.match(r"^([^=!]+)(==|=|!=)(.*)$", term, re.DOTALL)
    if not match:
        raise bad_request(f"invalid selector: '{term}'; can't understand '{term}'")
    name, operator, value = match.groups()
    if name not in _SELECTABLE.get(kind.resource, _COMMON):
        raise _unsupported_field(kind, name)
    return FieldRequirement(name, value, operator != "!=")


_COMMON = frozenset({"metadata.name", "metadata.namespace"})
_SELECTABLE = {
    PODS.resource: _COMMON
    | {f"spec.{name}" for name in ("nodeName", "restartPolicy", "schedulerName", "serviceAccountName", "hostNetwork")}
    | {f"status.{name}" for name in ("phase", "podIP", "nominatedNodeName")},
    SERVICES.resource: _COMMON | {"spec.clusterIP", "spec.type"},
    NAMESPACES.resource: _COMMON | {"status.phase"},
    EVENTS.resource: _COMMON
    | {
        f"involvedObject.{n}"
        for n in ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
    }
    | {"reason", "type", "source", "reportingComponent"},
}


def _unsupported_field(kind: Kind, name: str) -> ApiError:
    if kind.resource in _SELECTABLE:
        return bad_request(f"field label not supported: {name}")
    return bad_request(f'"{name}" is not a known field selector: only "metadata.name", "metadata.namespace"')


@dataclass(frozen=True, slots=True)
class Selection:
    """The objects of one kind that a list, a watch or a deletecollection selects."""

    kind: Kind
    namespace: str | None = None  # None: all namespaces
    labels: tuple[LabelRequirement, ...] = ()
    fields: tuple[FieldRequirement, ...] = field(default=())

    @property
    def is_unfiltered(self) -> bool:
        return not self.labels and not self.fields

    def matches(self, stored: StoredObject) -> bool:
        if self.namespace is not None and stored.namespace != self.namespace:
            return False
        if not all(requirement.matches(stored.labels) for requirement in self.labels):
            return False
        return not self.fields or self._fields_match(stored)

    def _fields_match(self, stored: StoredObject) -> bool:
        values = self.kind.fields(stored.body)
        values |= {"metadata.name": stored.name, "metadata.namespace": stored.namespace}
        return all((values[term.field] == term.value) is term.is_positive for term in self.fields)

    def required_labels(self) -> list[tuple[str, str]]:
        """Return the labels that all matching objects have, for a search by index."""
        single = [r for r in self.labels if r.is_positive and r.values is not None and len(r.values) == 1]
        return [(requirement.key, next(iter(requirement.values or ()))) for requirement in single]

    def exact_name(self) -> str | None:
        """Return the only name that can match, for a search by index."""
        return next((term.value for term in self.fields if term.field == "metadata.name" and term.is_positive), None)
