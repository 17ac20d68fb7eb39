"""Increases of counters, and of the counts of histograms, since a moment; by name and labels."""

from shared.metrics import REGISTRY

Series = tuple[str, ...]
"""Name of a sample, and the values of its labels in the order of their names."""


class Counts:
    """Counter increases since this object was created, as `{("deerflow_jobs_total", "provision", "done"): 2}`."""

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
    """Return the value of one sample of this process, or 0 if the sample does not exist."""
    return REGISTRY.get_sample_value(name, labels) or 0.0
