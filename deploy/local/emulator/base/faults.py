"""Misbehaviour on demand: rules, and whether one strikes now."""

import re
import time
from collections import Counter
from random import Random
from typing import Any

import msgspec

from deploy.local.emulator.base.statuses import bad_request

REQUEST_KINDS = ("delay", "error", "reset", "unavailable")
WATCH_KINDS = ("watch-close", "watch-stall", "watch-expired")
POD_KINDS = (
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

    def wanted(self) -> dict[str, Any]:
        """What was asked for, without what happened since."""
        asked: dict[str, Any] = msgspec.to_builtins(self)
        return {name: value for name, value in asked.items() if name not in {"struck", "since"}}

    def spent(self) -> bool:
        return self.times is not None and self.struck >= self.times


class Target(msgspec.Struct):
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
                _check(rule)
        except (msgspec.DecodeError, re.error) as error:
            raise bad_request(f"rules: {error}") from error
        self.rules = [self._kept(rule) for rule in rules]

    def _kept(self, rule: Rule) -> Rule:
        """A rule that was there before stays the same one, for the Pods it has struck; its count begins anew."""
        kept = next((old for old in self.rules if old.wanted() == rule.wanted()), rule)
        kept.struck, kept.since = 0, time.monotonic()
        return kept

    def strike(self, kinds: tuple[str, ...], target: Target, *, after: bool = False) -> Rule | None:
        for rule in self.rules:
            if rule.kind in kinds and rule.after is after and not rule.spent() and _concerns(rule, target):
                if self._random.random() >= rule.share:
                    continue
                rule.struck += 1
                return rule
        return None

    def forbid(self, target: Target) -> bool:
        """Whether each such request is refused with 403, as one without the permission is. Strikes nothing."""
        refusing = (rule for rule in self.rules if rule.kind == "error" and rule.status == _FORBIDDEN)
        return any(rule.times is None and rule.share >= 1 and _concerns(rule, target) for rule in refusing)

    def shown(self) -> list[dict[str, Any]]:
        return [{**rule.wanted(), "struck": rule.struck} for rule in self.rules]


def _check(rule: Rule) -> None:
    if rule.kind not in REQUEST_KINDS + WATCH_KINDS + POD_KINDS:
        raise bad_request(f"no such kind of fault: {rule.kind}")
    re.compile(rule.name or "")


def _concerns(rule: Rule, target: Target) -> bool:
    if rule.kind == "unavailable" and rule.seconds is not None and time.monotonic() - rule.since > rule.seconds:
        return False
    said = ((rule.verb, target.verb), (rule.resource, target.resource), (rule.namespace, target.namespace))
    if any(wanted is not None and wanted != given for wanted, given in said):
        return False
    if rule.name is not None and not re.search(rule.name, target.name):
        return False
    key, _, value = (rule.label or "").partition("=")
    return not key or target.labels.get(key) == value
