"""The metrics of models: they come when a model is loaded, and go with its last version."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

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
        self.named_callers: set[str] = set()
        self._versions: defaultdict[str, list[ModelMetrics]] = defaultdict(list)

    def begin(self, model: str, version: ModelMetrics) -> None:
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

    def end(self, model: str, version: ModelMetrics) -> None:
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
        for caller in ("", *self.named_callers):
            self.caller_tokens.remove(model, caller)
            self.caller_dropped.remove(model, caller)

    def count(self, family: Counters, model: str, caller: str, amount: int) -> None:
        """Count for a caller in one of the families of callers, if any caller is named. What is
        late for a model that has ended is not counted."""
        if self.named_callers and (not model or model in self._versions):
            family.labels(model, caller if caller in self.named_callers else "").inc(amount)


def _nothing() -> int:
    return 0


class DropMetrics:
    """Counts the requests to one model that ended without a result."""

    def __init__(self, families: ModelFamilies, model: str):
        self._families = families
        self._model = model
        self._dropped = {reason: families.dropped.labels(model, reason) for reason in DROP_REASONS}

    def drop(self, reason: str, caller: str = "") -> None:
        """Count one, for one of DROP_REASONS. `caller` is whose it is, if that is known."""
        self._dropped[reason].inc()
        self._families.count(self._families.caller_dropped, self._model, caller, 1)


class ModelMetrics(DropMetrics):
    """The metrics of one version of a model, from its load until `end`."""

    def __init__(self, families: ModelFamilies, model: str):
        super().__init__(families, model)
        self._families = families
        self.model = model  # its name, as it is in the label
        self._sequences = families.sequences.labels(model)
        self._tokens = families.tokens.labels(model)
        self._queue_seconds = families.queue_seconds.labels(model)
        self._batch_sequences = families.batch_sequences.labels(model)
        self._batch_tokens = families.batch_tokens.labels(model)
        self._batch_compute = families.batch_compute.labels(model)
        self._slice_seconds = families.slice_seconds.labels(model)
        self._spared_tokens = families.spared_tokens.labels(model)
        self._wasted_tokens = families.wasted_tokens.labels(model)
        self._misjudged = families.misjudged.labels(model)
        self._out_of_memory = families.out_of_memory.labels(model)
        self._load_seconds = families.load_seconds.labels(model)
        self._limit_tokens = families.queue_limit_tokens.labels(model)
        self._info: tuple[str, ...] | None = None
        self._loaded_in = 0.0  # seconds
        self._max_waiting_tokens = 0
        self.waiting_sequences: Callable[[], int] = _nothing
        self.waiting_tokens: Callable[[], int] = _nothing
        self.budget_tokens: Callable[[], int] = _nothing
        families.begin(model, self)

    def end(self) -> None:
        """The version is served no more: its share of the model's gauges goes, and with the last
        version all that the model has."""
        self._limit_tokens.dec(self._max_waiting_tokens)
        self._load_seconds.dec(self._loaded_in)
        if self._info is not None:
            self._families.info.remove(*self._info)
        self._families.end(self.model, self)
        # What they read may go.
        self.waiting_sequences = self.waiting_tokens = self.budget_tokens = _nothing

    def watch_queue(
        self, sequences: Callable[[], int], tokens: Callable[[], int], max_tokens: int
    ) -> None:
        """Read at each scrape how many sequences, and how many of at most `max_tokens` tokens,
        wait in the version's queue."""
        self.waiting_sequences, self.waiting_tokens = sequences, tokens
        self._max_waiting_tokens = max_tokens
        self._limit_tokens.inc(max_tokens)

    def watch_budget(self, tokens: Callable[[], int]) -> None:
        """Read at each scrape how many tokens a batch of the version may have."""
        self.budget_tokens = tokens

    def observe_out_of_memory(self) -> None:
        """Count a batch or a slice for which there was no memory."""
        self._out_of_memory.inc()

    def observe_load(self, seconds: float) -> None:
        """Count the time in which the version was loaded and warmed up."""
        self._loaded_in = seconds
        self._load_seconds.inc(seconds)

    def observe_ready(self, version: str, kernel: str, device: str, dtype: str) -> None:
        """Show the version as one that is served."""
        self._info = (self.model, version, kernel, device, dtype)
        self._families.info.labels(*self._info).set(1)

    def observe_batch(
        self, sequences: int, tokens: int, seconds: float, queue_seconds: Iterable[float]
    ) -> None:
        """Count a batch that was computed in so long, and how long each of its sequences had
        waited."""
        self._batch_sequences.observe(sequences)
        self._batch_tokens.observe(tokens)
        self._batch_compute.observe(seconds)
        for waited in queue_seconds:
            self._queue_seconds.observe(waited)

    def observe_encoded(self, sequences: int, tokens: int) -> None:
        """Count sequences that have their results, and their tokens."""
        self._sequences.inc(sequences)
        self._tokens.inc(tokens)

    def observe_caller(self, caller: str, tokens: int) -> None:
        """Count a caller's tokens that have their results."""
        self._families.count(self._families.caller_tokens, self._model, caller, tokens)

    def observe_slice(self, seconds: float) -> None:
        """Count a slice that was computed in so long, of one long sequence or several."""
        self._slice_seconds.observe(seconds)

    def observe_wait(self, seconds: float) -> None:
        """Count how long a sequence had waited that was computed in slices."""
        self._queue_seconds.observe(seconds)

    def observe_spared(self, tokens: int) -> None:
        """Count tokens that are not computed, because their results would come too late."""
        self._spared_tokens.inc(tokens)

    def observe_waste(self, tokens: int, is_late: bool) -> None:
        """Count a sequence that was computed for nobody, because it `is_late` or its caller has
        left."""
        self._wasted_tokens.inc(tokens)
        if is_late:
            self._misjudged.inc()
