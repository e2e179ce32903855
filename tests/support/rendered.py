"""Reads the metrics as a monitoring system does."""

from collections.abc import Iterable

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from breakglass.server.counters import Counters


def families(text: str) -> dict[str, Metric]:
    """Return the metrics of a text by their names, including the suffix of a counter's name."""
    return {
        f"{family.name}{'_total' * (family.type == 'counter')}": family
        for family in text_string_to_metric_families(text)
    }


def series(text: str) -> dict[str, float]:
    """Return the value of every series by its name without `breakglass_` and its labels in their order."""
    return _values(families(text).values())


def counted(counters: Counters) -> dict[str, float]:
    """Return each count that is not 0, as `series` does."""
    return {name: value for name, value in _values(counters.collect(())).items() if value}


def _values(metrics: Iterable[Metric]) -> dict[str, float]:
    found = {}
    for sample in (sample for metric in metrics for sample in metric.samples):
        labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
        name = sample.name.removeprefix("breakglass_")
        found[f"{name}{{{labels}}}" if labels else name] = sample.value
    return found
