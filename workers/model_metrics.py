"""Metrics of the models of a worker, read when Prometheus scrapes."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from workers.model_pool import ModelPool


class ModelCollector(Collector):
    """Collects what a pool has loaded and unloaded, by model."""

    def __init__(self, models: ModelPool) -> None:
        self._models = models

    def collect(self) -> Iterable[Metric]:
        totals, memory = self._models.totals, self._models.memory()
        names = sorted({*memory, *totals.loads, *totals.failures})
        loaded = GaugeMetricFamily("duet_model_loaded", "1 if the model is loaded, otherwise 0.", labels=("model",))
        taken = GaugeMetricFamily(
            "duet_model_memory_bytes", "Memory of the loaded model: weights and its largest batch.", labels=("model",)
        )
        for name, size in memory.items():
            loaded.add_metric((name,), int(self._models.is_loaded(name)))
            taken.add_metric((name,), size)
        yield from (loaded, taken)
        for metric, what, counts in (
            ("duet_model_loads", "Loads of the model.", totals.loads),
            ("duet_model_unloads", "Times that the model was unloaded.", totals.unloads),
            ("duet_model_load_failures", "Loads of the model that failed.", totals.failures),
            ("duet_model_load_seconds", "Seconds that its loads took, with the unloads before them.", totals.seconds),
        ):
            counter = CounterMetricFamily(metric, what, labels=("model",))
            for name in names:
                counter.add_metric((name,), counts.get(name, 0))
            yield counter
