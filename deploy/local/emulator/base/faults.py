"""Misbehaviour on demand: rules, and whether one strikes now."""

import re
import time
from collections import Counter
from random import Random
from typing import Any

import msgspec

from deploy.local.emulator.base.statuses import bad_request

REQUEST_FAULTS = ("delay", "error", "reset", "unavailable")
WATCH_FAULTS = ("watch-close", "watch-stall", "watch-expired")
POD_FAULTS = (
    "image-pull",
    "unschedulable",
    "crash-loop",
    "out-of-memory",
    "no-mount",
    "never-ready",
    "readiness-flaps",
    "evicted",
    "slow-start",
)
_FORBIDDEN = 403


class Rule(msgspec.Struct, omit_defaults=True, kw_only=True, eq=False, forbid_unknown_fields=True):
    """One way to misbehave, whom it concerns, and how often. Every condition given must hold."""

    kind: str
    share: float = 1.0  # of the requests or Pods concerned
    times: int | None = None  # None: as often as it applies
    after: bool = False  # delay, error, reset: the write is done, only its answer is lost
    seconds: float | None = None  # a delay's length, a watch's age at its end, a Pod's back-off; 0: at once
    status: int = 500
    reason: str | None = None
    message: str | None = None
    retry_after: int | None = None
    verb: str | None = None
    resource: str | None = None
    namespace: str | None = None
    name: str | None = None  # a regular expression, searched
    label: str | None = None  # key=value, of Pods
    exit_code: int = 1  # crash-loop
    struck: int = 0
    since: float = 0.0

    def specification(self) -> dict[str, Any]:
        """What was asked for, without what happened since."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        return {name: value for name, value in fields.items() if name not in {"struck", "since"}}

    def is_exhausted(self) -> bool:
        return self.times is not None and self.struck >= self.times


class FaultTarget(msgspec.Struct):
    """What a request is about, or a Pod."""

    verb: str = ""
    resource: str = ""
    namespace: str = ""
    name: str = ""
    labels: dict[str, str] = {}


class Faults:
    """The rules there are. The first one that applies, strikes."""

    def __init__(self, random: Random) -> None:
        self.rules: list[Rule] = []
        self.calls: Counter[str] = Counter()  # "verb resource": how often asked
        self._random = random

    def replace(self, body: bytes) -> None:
        try:
            rules = msgspec.json.decode(body or b"[]", type=list[Rule])
            for rule in rules:
                _check_rule(rule)
        except (msgspec.DecodeError, re.error) as error:
            raise bad_request(f"rules: {error}") from error
        self.rules = [self._reuse(rule) for rule in rules]

    def _reuse(self, rule: Rule) -> Rule:
        """A rule that was there before stays the same one, for the Pods it has struck; its count begins anew."""
        reused = next((old for old in self.rules if old.specification() == rule.specification()), rule)
        reused.struck, reused.since = 0, time.monotonic()
        return reused

    def strike(self, kinds: tuple[str, ...], target: FaultTarget, *, after: bool = False) -> Rule | None:
        for rule in self.rules:
            if rule.kind in kinds and rule.after is after and not rule.is_exhausted() and _matches(rule, target):
                if self._random.random() >= rule.share:
                    continue
                rule.struck += 1
                return rule
        return None

    def forbids(self, target: FaultTarget) -> bool:
        """Whether each such request is refused with 403, as one without the permission is. Strikes nothing."""
        refusing = (rule for rule in self.rules if rule.kind == "error" and rule.status == _FORBIDDEN)
        return any(rule.times is None and rule.share >= 1 and _matches(rule, target) for rule in refusing)

    def describe(self) -> list[dict[str, Any]]:
        return [{**rule.specification(), "struck": rule.struck} for rule in self.rules]


def _check_rule(rule: Rule) -> None:
    if rule.kind not in REQUEST_FAULTS + WATCH_FAULTS + POD_FAULTS:
        raise bad_request(f"no such kind of fault: {rule.kind}")
    re.compile(rule.name or "")


def _matches(rule: Rule, target: FaultTarget) -> bool:
    if rule.kind == "unavailable" and rule.seconds is not None and time.monotonic() - rule.since > rule.seconds:
        return False
    pairs = ((rule.verb, target.verb), (rule.resource, target.resource), (rule.namespace, target.namespace))
    if any(expected is not None and expected != actual for expected, actual in pairs):
        return False
    if rule.name is not None and not re.search(rule.name, target.name):
        return False
    key, _, value = (rule.label or "").partition("=")
    return not key or target.labels.get(key) == value
