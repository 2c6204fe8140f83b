"""Reading what Prometheus would read."""

from __future__ import annotations

from collections.abc import Iterable

import httpx
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families


def scraped(url: str) -> dict[str, float]:
    """What `url` shows, by the name of each series with its labels: `duet_jobs{kind="v2a",status="queued"}`."""
    text = httpx.get(url, timeout=5, trust_env=False).raise_for_status().text
    return series(text_string_to_metric_families(text))


def series(families: Iterable[Metric]) -> dict[str, float]:
    """The same of metrics that are at hand."""
    found = {}
    for family in families:
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def names(families: Iterable[Metric]) -> set[str]:
    """The names under which they can be asked for, also of those that have no series yet."""
    endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
    return {family.name + ending for family in families for ending in endings.get(family.type, ("",))}
