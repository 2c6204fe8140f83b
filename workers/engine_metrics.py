"""Metrics of the engine and its device, read when Prometheus scrapes, so that the engine's thread never waits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from model.runtime.engine import Engine

_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class EngineCollector(Collector):
    """Collects the metrics of one engine and its device. `halvings`: batches halved since the start, by network."""

    def __init__(self, engine: Engine, halvings: Callable[[], Mapping[str, int]], device: torch.device | None) -> None:
        self._engine = engine
        self._halvings = halvings
        self._device = device

    def collect(self) -> Iterable[Metric]:
        statistics = self._engine.statistics
        batches = HistogramMetricFamily(
            "duet_engine_batch_size",
            "Batch size of a network in one tick: clips for base, frames for sr.",
            labels=("network",),
        )
        for network, sizes in (("base", statistics.clips), ("sr", statistics.frames)):
            counts = dict(sizes)  # a copy: the engine keeps counting
            total = sum(size * count for size, count in counts.items())
            batches.add_metric((network,), _cumulative(counts, _SIZES), total)
        yield batches
        steps = HistogramMetricFamily(
            "duet_engine_step_seconds",
            "Duration of a tick, by the networks that ran in it: base, sr or both.",
            labels=("network",),
        )
        for network, times in list(statistics.steps.items()):
            steps.add_metric((network,), _cumulative(dict(times.counts), times.BOUNDS), times.total)
        yield steps
        yield CounterMetricFamily("duet_engine_ticks", "Ticks of the engine.", value=statistics.ticks)
        yield CounterMetricFamily(
            "duet_engine_working_seconds", "Time in ticks; otherwise the device is idle.", value=statistics.working
        )
        halved = CounterMetricFamily(
            "duet_engine_out_of_memory", "Batches halved for lack of memory.", labels=("network",)
        )
        halvings = self._halvings()
        for network in ("base", "sr"):
            halved.add_metric((network,), halvings.get(network, 0))
        yield halved
        yield from _device_memory(self._device)


def _cumulative(counts: Mapping[int, int] | Mapping[float, int], bounds: Sequence[float]) -> list[tuple[str, float]]:
    """Cumulative counts per bound, the form of Prometheus' histogram buckets."""
    buckets = [(str(bound), sum(n for value, n in counts.items() if value <= bound)) for bound in bounds]
    return [*buckets, ("+Inf", sum(counts.values()))]


def _device_memory(device: torch.device | None) -> Iterable[Metric]:
    """Memory of a CUDA device in use; nothing for other devices."""
    if device is None or device.type != "cuda" or not torch.cuda.is_initialized():
        return ()
    free, total = torch.cuda.mem_get_info(device)
    taken = {
        "used": torch.cuda.memory_allocated(device),
        "reserved": torch.cuda.memory_reserved(device),
        "peak": torch.cuda.max_memory_allocated(device),
        "occupied": total - free,
    }
    return memory_families(str(device), taken, total)


def memory_families(device: str, taken: Mapping[str, int], total: int) -> Iterable[Metric]:
    """The memory of `device` in bytes: the parts that are `taken`, and its `total`."""
    memory = GaugeMetricFamily(
        "duet_device_memory_bytes",
        "used and peak: tensors of this worker; reserved: kept for them; occupied: used by all processes.",
        labels=("device", "what"),
    )
    for what, value in taken.items():
        memory.add_metric((device, what), value)
    yield memory
    whole = GaugeMetricFamily("duet_device_memory_total_bytes", "Memory of the device.", labels=("device",))
    whole.add_metric((device,), total)
    yield whole
