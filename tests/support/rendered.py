"""The metrics as a monitoring system reads them."""

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families


def families(text: str) -> dict[str, Metric]:
    """Return the metrics of a text by their names, those of counters with their end."""
    return {
        f"{family.name}{'_total' * (family.type == 'counter')}": family
        for family in text_string_to_metric_families(text)
    }


def series(text: str) -> dict[str, float]:
    """Return the value of every series, by its name without `breakglass_` and its labels in their order."""
    found = {}
    for family in families(text).values():
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            name = sample.name.removeprefix("breakglass_")
            found[f"{name}{{{labels}}}" if labels else name] = sample.value
    return found
