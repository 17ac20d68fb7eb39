"""Faults on request: rules, and the choice of the rule that strikes now."""

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
_ALL_FAULTS = REQUEST_FAULTS + WATCH_FAULTS + POD_FAULTS
_FORBIDDEN = 403


class Rule(msgspec.Struct, omit_defaults=True, kw_only=True, eq=False, forbid_unknown_fields=True):
    """A fault, its targets, and its frequency. A target must match all conditions that are set."""

    kind: str
    share: float = 1.0  # of the matching requests or Pods
    times: int | None = None  # None: no limit
    after: bool = False  # delay, error, reset: strike after the write, so that only its response is lost
    seconds: float | None = None  # length of a delay, age of a watch at its end, back-off of a Pod; 0: at once
    status: int = 500
    reason: str | None = None
    message: str | None = None
    retry_after: int | None = None
    verb: str | None = None
    resource: str | None = None
    namespace: str | None = None
    name: str | None = None  # a regular expression that may match any part of the name
    label: str | None = None  # key=value of Pods
    exit_code: int = 1  # of a crash-loop
    struck: int = 0  # how often the rule struck
    since: float = 0.0  # monotonic time when the rule was set

    def specification(self) -> dict[str, Any]:
        """Return the rule as it was set, without its state."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        return {name: value for name, value in fields.items() if name not in {"struck", "since"}}

    def is_exhausted(self) -> bool:
        return self.times is not None and self.struck >= self.times


class FaultTarget(msgspec.Struct):
    """A request or a Pod, as rules match it."""

    verb: str = ""
    resource: str = ""
    namespace: str = ""
    name: str = ""
    labels: dict[str, str] = {}


class Faults:
    """All rules. The first rule that matches a target strikes."""

    def __init__(self, random: Random) -> None:
        self.rules: list[Rule] = []
        self.calls: Counter[str] = Counter()  # "verb resource": number of requests
        self._random = random

    def replace(self, body: bytes) -> None:
        """Set the rules to the JSON list in `body`.

        Raises:
            ApiError: 400, the list or a rule is invalid.
        """
        try:
            rules = msgspec.json.decode(body or b"[]", type=list[Rule])
            for rule in rules:
                _check_rule(rule)
        except (msgspec.DecodeError, re.error) as error:
            raise bad_request(f"invalid fault rules: {error}") from error
        self.rules = [self._reuse(rule) for rule in rules]

    def _reuse(self, rule: Rule) -> Rule:
        """Return an equal old rule, so that its fault stays on the Pods that it struck. Its count starts at zero."""
        rule = next((old for old in self.rules if old.specification() == rule.specification()), rule)
        rule.struck, rule.since = 0, time.monotonic()
        return rule

    def strike(self, kinds: tuple[str, ...], target: FaultTarget, *, after: bool = False) -> Rule | None:
        """Return and count the first rule of these kinds that strikes the target now."""
        for rule in self.rules:
            if rule.kind in kinds and rule.after is after and not rule.is_exhausted() and _matches(rule, target):
                if self._random.random() >= rule.share:
                    continue
                rule.struck += 1
                return rule
        return None

    def forbids(self, target: FaultTarget) -> bool:
        """Return True if a rule refuses all such requests with 403, as without the permission. No rule strikes."""
        refusing = (rule for rule in self.rules if rule.kind == "error" and rule.status == _FORBIDDEN)
        return any(rule.times is None and rule.share >= 1 and _matches(rule, target) for rule in refusing)

    def describe(self) -> list[dict[str, Any]]:
        return [{**rule.specification(), "struck": rule.struck} for rule in self.rules]


def _check_rule(rule: Rule) -> None:
    if rule.kind not in _ALL_FAULTS:
        raise bad_request(f"unknown fault {rule.kind!r}; known are {', '.join(_ALL_FAULTS)}")
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
