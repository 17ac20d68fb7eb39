"""What the process has counted since a moment: counters, and how many a histogram has seen; by name and labels."""

from shared.metrics import REGISTRY

Series = tuple[str, ...]
"""A sample's name, and its labels' values in the order of their names."""


class Counts:
    """`{("deerflow_jobs_total", "provision", "done"): 2}`: what has grown since this was made."""

    def __init__(self) -> None:
        self._before = _read()

    def gained(self) -> dict[Series, int]:
        return {series: int(now - before) for series, now, before in self._pairs() if now != before}

    def _pairs(self) -> list[tuple[Series, float, float]]:
        return [(series, now, self._before.get(series, 0.0)) for series, now in _read().items()]


def _read() -> dict[Series, float]:
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in REGISTRY.collect()
        for sample in family.samples
        if sample.name.endswith(("_total", "_count"))
    }


def value(name: str, **labels: str) -> float:
    """Of one sample of this process; of one that there is not: 0."""
    return REGISTRY.get_sample_value(name, labels) or 0.0
