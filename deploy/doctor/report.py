"""The results as a table for people, and as JSON for programs."""

import textwrap
from collections.abc import Iterator, Sequence

import msgspec

from deploy.doctor.findings import Verdict
from deploy.doctor.runner import Result

_GAP = "  "
_MIN_TEXT_COLUMNS = 40
"""Width of the text on a terminal that is too narrow for the table."""


def has_failed(results: Sequence[Result]) -> bool:
    return any(result.verdict is Verdict.FAILED for result in results)


def as_json(results: Sequence[Result]) -> str:
    return msgspec.json.format(msgspec.json.encode({"ok": not has_failed(results), "checks": results})).decode()


def as_table(results: Sequence[Result], width: int) -> str:
    """Return a line for each check, its advice below, and the number of checks of each verdict. `width`: columns."""
    lines = [line for result in results for line in _lines(result, results, width)]
    return "\n".join([*lines, "", _summary(results)])


def _lines(result: Result, results: Sequence[Result], width: int) -> Iterator[str]:
    verdicts = max(len(each.verdict) for each in results)
    checks = max(len(each.check) for each in results)
    margin = verdicts + checks + 2 * len(_GAP)
    columns = max(width - margin, _MIN_TEXT_COLUMNS)
    texts = [*_wrap(result.detail, "", columns), *_wrap(result.advice, "→ ", columns)]
    yield f"{result.verdict:{verdicts}}{_GAP}{result.check:{checks}}{_GAP}{texts[0]}"
    yield from (" " * margin + text for text in texts[1:])


def _wrap(text: str, mark: str, columns: int) -> Iterator[str]:
    """Wrap each line of the text by itself. Commands and URLs are not broken."""
    for line in text.splitlines():
        yield from textwrap.wrap(
            mark + line,
            columns,
            subsequent_indent=" " * len(mark),
            break_long_words=False,
            break_on_hyphens=False,
        )


def _summary(results: Sequence[Result]) -> str:
    counts = {verdict: sum(result.verdict is verdict for result in results) for verdict in Verdict}
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
