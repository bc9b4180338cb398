"""The families of the metrics of models, of which each model has its own by its label."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Protocol

from prometheus_client import CollectorRegistry, Gauge

from .buckets import SECONDS, SEQUENCES, TOKENS
from .tallies import Counters, Histograms

# Why a request ended without a result.
DROP_REASONS = (
    "overloaded",  # the queue was full
    "expired",  # its deadline passed
    "cancelled",  # its caller left
    "stalled",  # its client sent no more, or took no replies
    "invalid",  # it, or the model it names
    "unauthorized",  # its caller has no token, or may not use the model
    "loading",  # it came too early
    "draining",  # it came too late
    "failed",  # the engine, or the device's memory
)
_LABELS = ("model",)
_CALLER_LABELS = ("model", "caller")


class Version(Protocol):
    """What gauges read of one version of a model."""

    @property
    def waiting_sequences(self) -> Callable[[], int]: ...
    @property
    def waiting_tokens(self) -> Callable[[], int]: ...
    @property
    def budget_tokens(self) -> Callable[[], int]: ...


class ModelFamilies:
    """The metrics of all models. Versions of one model share its label, and so its numbers."""

    def __init__(self, registry: CollectorRegistry):
        self.sequences = Counters(
            "bilstm_sequences_total", "Sequences encoded.", _LABELS, registry=registry
        )
        self.tokens = Counters(
            "bilstm_tokens_total", "Tokens (steps) encoded.", _LABELS, registry=registry
        )
        self.queue_sequences = Gauge(
            "bilstm_queue_sequences", "Sequences in the queue now.", _LABELS, registry=registry
        )
        self.queue_tokens = Gauge(
            "bilstm_queue_tokens", "Tokens in the queue now.", _LABELS, registry=registry
        )
        self.queue_limit_tokens = Gauge(
            "bilstm_queue_limit_tokens",
            "Tokens that the queue has room for, of all versions.",
            _LABELS,
            registry=registry,
        )
        self.queue_seconds = Histograms(
            "bilstm_queue_seconds",
            "Time of a sequence from admission until its batch began to be computed.",
            _LABELS,
            buckets=SECONDS,
            registry=registry,
        )
        self.batch_sequences = Histograms(
            "bilstm_batch_sequences",
            "Sequences in a computed batch.",
            _LABELS,
            buckets=SEQUENCES,
            registry=registry,
        )
        self.batch_tokens = Histograms(
            "bilstm_batch_tokens",
            "Tokens in a computed batch.",
            _LABELS,
            buckets=TOKENS,
            registry=registry,
        )
        self.batch_limit_tokens = Gauge(
            "bilstm_batch_limit_tokens",
            "Tokens that a batch may have now: fewer than --max-batch-tokens for a while after the "
            "device's memory ran out; of all versions, the fewest.",
            _LABELS,
            registry=registry,
        )
        self.out_of_memory = Counters(
            "bilstm_out_of_memory_total",
            "Batches and slices for which the device's memory ran out.",
            _LABELS,
            registry=registry,
        )
        self.batch_compute = Histograms(
            "bilstm_batch_compute_seconds",
            "Time to compute a batch.",
            _LABELS,
            buckets=SECONDS,
            registry=registry,
        )
        self.slice_seconds = Histograms(
            "bilstm_slice_compute_seconds",
            "Time to compute a slice of long sequences.",
            _LABELS,
            buckets=SECONDS,
            registry=registry,
        )
        self.spared_tokens = Counters(
            "bilstm_spared_tokens_total",
            "Tokens that were not computed, because their results would have come too late.",
            _LABELS,
            registry=registry,
        )
        self.wasted_tokens = Counters(
            "bilstm_wasted_tokens_total",
            "Tokens that were computed for nobody: their callers had left, or their deadlines had "
            "passed.",
            _LABELS,
            registry=registry,
        )
        self.misjudged = Counters(
            "bilstm_misjudged_total",
            "Sequences that were computed because they were expected to be in time, and were not.",
            _LABELS,
            registry=registry,
        )
        self.dropped = Counters(
            "bilstm_dropped_total",
            f"Requests, and sequences of streams, that ended without a result: "
            f"{', '.join(DROP_REASONS)}. The model is '' where the request names none that is "
            "served, or can't be read.",
            ("model", "reason"),
            registry=registry,
        )
        self.caller_tokens = Counters(
            "bilstm_caller_tokens_total",
            "Tokens (steps) encoded for a caller that the file of tokens or a setting names. The "
            "caller is '' for all others. There is none where they name none.",
            _CALLER_LABELS,
            registry=registry,
        )
        self.caller_dropped = Counters(
            "bilstm_caller_dropped_total",
            "Requests, and sequences of streams, that ended without a result, by caller as above.",
            _CALLER_LABELS,
            registry=registry,
        )
        self.info = Gauge(
            "bilstm_model_info",
            "A model that is served: always 1. There is none until all are loaded.",
            ("model", "version", "kernel", "device", "dtype"),
            registry=registry,
        )
        self.load_seconds = Gauge(
            "bilstm_model_load_seconds",
            "Time to load the model and warm it up, all its versions.",
            _LABELS,
            registry=registry,
        )
        self._named_callers: frozenset[str] = frozenset()
        self._versions: defaultdict[str, list[Version]] = defaultdict(list)

    def begin(self, model: str, version: Version) -> None:
        """Let the gauges of the model's queue read this version's too."""
        versions = self._versions[model]
        versions.append(version)
        self.queue_sequences.labels(model).set_function(
            lambda: sum(version.waiting_sequences() for version in versions)
        )
        self.queue_tokens.labels(model).set_function(
            lambda: sum(version.waiting_tokens() for version in versions)
        )
        self.batch_limit_tokens.labels(model).set_function(
            lambda: min((version.budget_tokens() for version in versions), default=0)
        )

    def end(self, model: str, version: Version) -> None:
        """Let go of the version, and with the last one of all that the model has."""
        self._versions[model].remove(version)
        if self._versions[model]:
            return
        del self._versions[model]
        for family in (
            *(self.sequences, self.tokens),
            *(self.queue_sequences, self.queue_tokens, self.queue_limit_tokens),
            *(self.queue_seconds, self.batch_sequences, self.batch_tokens, self.batch_compute),
            *(self.slice_seconds, self.load_seconds),
            *(self.spared_tokens, self.wasted_tokens, self.misjudged),
            *(self.batch_limit_tokens, self.out_of_memory),
        ):
            family.remove(model)
        for reason in DROP_REASONS:
            self.dropped.remove(model, reason)
        self._forget_callers(model, {"", *self._named_callers})

    def name_callers(self, names: frozenset[str]) -> None:
        """Count for callers of these names apart, and forget those that had a name before."""
        for model in ("", *self._versions):
            self._forget_callers(model, self._named_callers - names)
        self._named_callers = names

    def count(self, family: Counters, model: str, caller: str, amount: int) -> None:
        """Count for a caller in one of the families of callers, if any caller is named. What is
        late for a model that has ended is not counted."""
        if self._named_callers and (not model or model in self._versions):
            family.labels(model, caller if caller in self._named_callers else "").inc(amount)

    def _forget_callers(self, model: str, callers: Iterable[str]) -> None:
        for caller in callers:
            self.caller_tokens.remove(model, caller)
            self.caller_dropped.remove(model, caller)
