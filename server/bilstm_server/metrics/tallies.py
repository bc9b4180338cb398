"""Counters and histograms that cost the event loop little: a tenth of prometheus_client's own.

One thread writes, so there are no locks. Another one may read meanwhile: it finds each number as it
was or as it is. Knows no metric by name.
"""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

T = TypeVar("T")


class Tally:
    """A counter that one thread writes."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def inc(self, amount: int = 1) -> None:
        self.value += amount


class Distribution:
    """A histogram that one thread writes: how many values lie between each bound and the next, and
    their sum."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]):
        """`bounds` are the buckets' upper ones, ascending, without infinity."""
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value


class Family(Collector, Generic[T]):
    """A metric with labels, which has one child for each of their values."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labelnames: Sequence[str],
        registry: CollectorRegistry,
    ):
        self.name = name
        self.documentation = documentation
        self.labelnames = tuple(labelnames)
        self._children: dict[tuple[str, ...], T] = {}
        registry.register(self)

    def labels(self, *values: str) -> T:
        """The child of these values, in the labels' order; made if there is none."""
        if len(values) != len(self.labelnames):
            raise ValueError(f"{self.name} has the labels {self.labelnames}, got {values}")
        if values not in self._children:
            self._children[values] = self._new()
        return self._children[values]

    def remove(self, *values: str) -> None:
        """Let go of the child of these values, so that it is scraped no more."""
        self._children.pop(values, None)

    def collect(self) -> Iterable[Metric]:
        yield self._family(list(self._children.items()))

    def describe(self) -> Iterable[Metric]:
        yield self._family([])

    @abstractmethod
    def _new(self) -> T: ...

    @abstractmethod
    def _family(self, children: list[tuple[tuple[str, ...], T]]) -> Metric: ...


class Counters(Family[Tally]):
    """Counters of one name, one for each combination of label values."""

    def _new(self) -> Tally:
        return Tally()

    def _family(self, children: list[tuple[tuple[str, ...], Tally]]) -> Metric:
        family = CounterMetricFamily(self.name, self.documentation, labels=self.labelnames)
        for values, tally in children:
            family.add_metric(values, tally.value)
        return family


class ReadCounter(Counters):
    """A counter without labels that something else keeps, and that is read at each scrape."""

    def __init__(self, name: str, documentation: str, registry: CollectorRegistry):
        super().__init__(name, documentation, (), registry)
        self.read: Callable[[], int] = lambda: 0

    def collect(self) -> Iterable[Metric]:
        self.labels().value = self.read()
        return super().collect()


class Histograms(Family[Distribution]):
    """Histograms of one name, one for each combination of label values."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labelnames: Sequence[str],
        registry: CollectorRegistry,
        buckets: Sequence[float],
    ):
        self._bounds = tuple(buckets)
        super().__init__(name, documentation, labelnames, registry)

    def _new(self) -> Distribution:
        return Distribution(self._bounds)

    def _family(self, children: list[tuple[tuple[str, ...], Distribution]]) -> Metric:
        family = HistogramMetricFamily(self.name, self.documentation, labels=self.labelnames)
        names = [*map(floatToGoString, self._bounds), "+Inf"]
        for values, distribution in children:
            buckets = list(zip(names, accumulate(distribution.counts), strict=True))
            family.add_metric(values, buckets, distribution.total)
        return family
