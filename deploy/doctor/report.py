"""The results for people, as a table, and for machines, as JSON."""

import textwrap
from collections.abc import Iterator, Sequence

import msgspec

from deploy.doctor.findings import Verdict
from deploy.doctor.runner import Result

_GAP = "  "
_NARROWEST = 40
"""Columns for the text, however narrow the terminal."""


def must_mend(results: Sequence[Result]) -> bool:
    return any(result.verdict is Verdict.BROKEN for result in results)


def as_json(results: Sequence[Result]) -> str:
    return msgspec.json.format(msgspec.json.encode({"well": not must_mend(results), "checks": results})).decode()


def as_table(results: Sequence[Result], width: int) -> str:
    """A line a check, what to do below it, and how many there are of each verdict. `width`: columns."""
    lines = [line for result in results for line in _lines(result, results, width)]
    return "\n".join([*lines, "", _summary(results)])


def _lines(result: Result, results: Sequence[Result], width: int) -> Iterator[str]:
    verdicts = max(len(_word(each.verdict)) for each in results)
    checks = max(len(each.check) for each in results)
    margin = verdicts + checks + 2 * len(_GAP)
    room = max(width - margin, _NARROWEST)
    texts = [*_wrapped(result.seen, "", room), *_wrapped(result.advice, "→ ", room)]
    yield f"{_word(result.verdict):{verdicts}}{_GAP}{result.check:{checks}}{_GAP}{texts[0]}"
    yield from (" " * margin + text for text in texts[1:])


def _wrapped(text: str, mark: str, room: int) -> Iterator[str]:
    """A line of the text stays one of its own. Commands and URLs are not broken."""
    for line in text.splitlines():
        yield from textwrap.wrap(
            mark + line,
            room,
            subsequent_indent=" " * len(mark),
            break_long_words=False,
            break_on_hyphens=False,
        )


def _word(verdict: Verdict) -> str:
    return verdict.value.replace("_", " ")


def _summary(results: Sequence[Result]) -> str:
    counts = {verdict: sum(result.verdict is verdict for result in results) for verdict in Verdict}
    return ", ".join(f"{count} {_word(verdict)}" for verdict, count in counts.items() if count)
