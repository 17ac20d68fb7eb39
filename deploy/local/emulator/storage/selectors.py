"""Label and field selectors: parsed once, asked often."""

import re
from dataclasses import dataclass, field

from deploy.local.emulator.base.names import label_key_faults, label_value_faults
from deploy.local.emulator.base.statuses import ApiError, bad_request
from deploy.local.emulator.storage.kinds import EVENTS, NAMESPACES, PODS, SERVICES, Kind
from deploy.local.emulator.storage.objects import Stored

_SET_BASED = re.compile(r"^(?P<key>\S+)\s+(?P<operator>in|notin)\s*\((?P<values>[^()]*)\)$")
_EQUALITY = re.compile(r"^(?P<key>[^=!\s]+)\s*(?P<operator>==|=|!=)\s*(?P<value>.*)$", re.DOTALL)
_EXISTS = re.compile(r"^(?P<absent>!?)\s*(?P<key>[^=!\s(),]+)$")
_COMMA_OUTSIDE_BRACKETS = re.compile(r",(?![^()]*\))")


@dataclass(frozen=True, slots=True)
class Requirement:
    """One term of a label selector; `values` is None where only the key's presence counts."""

    key: str
    values: frozenset[str] | None
    wanted: bool  # False: `!=`, `notin`, `!key`

    def matches(self, labels: dict[str, str]) -> bool:
        value = labels.get(self.key)
        found = value is not None and (self.values is None or value in self.values)
        return found is self.wanted


def parse_labels(text: str) -> tuple[Requirement, ...]:
    terms = [term.strip() for term in _COMMA_OUTSIDE_BRACKETS.split(text)] if text.strip() else []
    return tuple(_requirement(term) for term in terms)


def _requirement(term: str) -> Requirement:
    if found := _SET_BASED.match(term):
        values = frozenset(value.strip() for value in found["values"].split(","))
        return _checked(Requirement(found["key"], values, found["operator"] == "in"))
    if found := _EQUALITY.match(term):
        values = frozenset([found["value"].strip()])
        return _checked(Requirement(found["key"], values, found["operator"] != "!="))
    if found := _EXISTS.match(term):
        return _checked(Requirement(found["key"], None, not found["absent"]))
    raise bad_request(f"unable to parse requirement: found '{term}', expected: a label selector term")


def _checked(requirement: Requirement) -> Requirement:
    for fault in label_key_faults(requirement.key):
        raise bad_request(f'unable to parse requirement: key: Invalid value: "{requirement.key}": {fault}')
    for value in sorted(requirement.values or ()):
        for fault in label_value_faults(value):
            raise bad_request(
                f'unable to parse requirement: values[0][{requirement.key}]: Invalid value: "{value}": {fault}'
            )
    return requirement


@dataclass(frozen=True, slots=True)
class FieldTerm:
    field: str
    value: str
    wanted: bool


def parse_fields(kind: Kind, text: str) -> tuple[FieldTerm, ...]:
    return tuple(_field_term(kind, term) for term in text.split(",") if term)


def _field_term(kind: Kind, term: str) -> FieldTerm:
    found = re.match(r"^([^=!]+)(==|=|!=)(.*)$", term, re.DOTALL)
    if not found:
        raise bad_request(f"invalid selector: '{term}'; can't understand '{term}'")
    name, operator, value = found.groups()
    if name not in _SELECTABLE.get(kind.resource, _COMMON):
        raise _unsupported_field(kind, name)
    return FieldTerm(name, value, operator != "!=")


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
    """Which objects of one kind a list, a watch or a deletecollection means."""

    kind: Kind
    namespace: str | None = None  # None: all of them
    labels: tuple[Requirement, ...] = ()
    fields: tuple[FieldTerm, ...] = field(default=())

    @property
    def everything(self) -> bool:
        return not self.labels and not self.fields

    def matches(self, stored: Stored) -> bool:
        if self.namespace is not None and stored.namespace != self.namespace:
            return False
        if not all(requirement.matches(stored.labels) for requirement in self.labels):
            return False
        return not self.fields or self._fields_match(stored)

    def _fields_match(self, stored: Stored) -> bool:
        known = self.kind.fields(stored.body)
        known |= {"metadata.name": stored.name, "metadata.namespace": stored.namespace}
        return all((known[term.field] == term.value) is term.wanted for term in self.fields)

    def equal_labels(self) -> list[tuple[str, str]]:
        """The labels that every match carries: what an index can be asked for."""
        single = [r for r in self.labels if r.wanted and r.values is not None and len(r.values) == 1]
        return [(requirement.key, next(iter(requirement.values or ()))) for requirement in single]

    def only_name(self) -> str | None:
        return next((term.value for term in self.fields if term.field == "metadata.name" and term.wanted), None)
