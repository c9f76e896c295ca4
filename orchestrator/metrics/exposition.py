"""Metrics as Prometheus reads them, by prometheus-client: its registry, its formats, and what it knows of a process.

Formats: Prometheus documentation, "Exposition formats"; OpenMetrics 1.0.0 where the reader asks for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from orchestrator.metrics.book import Metrics

ROLE = "role"


class _OfBook(Collector):
    """What a book says, as prometheus-client's families."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """Called by the registry at every reading."""
        for row, said in self._metrics.samples():
            labels = (ROLE, *row.labels)
            kind = CounterMetricFamily if row.is_counter else GaugeMetricFamily
            family = kind(row.name, row.what, labels=labels)
            for values, value in said.items():
                family.add_metric(values, value)
            yield family
        yield from _of_itself(self._metrics)

    def describe(self) -> Iterable[Metric]:
        """Nothing is asked while this is registered."""
        return ()


def _of_itself(metrics: Metrics) -> Iterator[Metric]:
    serving = metrics.serving
    info = GaugeMetricFamily(
        "qunetlab_build_info", "1, with the version of a role that serves", labels=(ROLE, "version")
    )
    if serving is not None:
        info.add_metric((metrics.role, serving.version), 1.0)
    yield info
    failed = CounterMetricFamily(
        "qunetlab_metrics_failures_total", "How often a source of metrics could not be asked", labels=(ROLE,)
    )
    failed.add_metric((metrics.role,), metrics.failed_sources)
    yield failed


class Exposition:
    """A book with what prometheus-client tells of the process: CPU, memory, descriptors."""

    def __init__(self, metrics: Metrics, *, process: bool = True) -> None:
        """Without ``process`` where the numbers are other processes'."""
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_OfBook(metrics))
        if process:
            ProcessCollector(registry=self._registry)

    def page(self, accept: str = "") -> tuple[str, bytes]:
        """Its type and its text; ``accept`` is what the reader takes, from the header of this name."""
        encode, content_type = choose_encoder(accept)
        return content_type, encode(self._registry)
