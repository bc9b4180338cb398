"""The metrics of models: they come when a model is loaded, and go with its last version."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .model_families import DROP_REASONS, ModelFamilies


def _nothing() -> int:
    return 0


class DropMetrics:
    """Counts the requests to one model that ended without a result."""

    def __init__(self, families: ModelFamilies, model: str):
        self._families = families
        self.model = model  # its name, as it is in the label
        self._dropped = {reason: families.dropped.labels(model, reason) for reason in DROP_REASONS}

    def drop(self, reason: str, caller: str = "") -> None:
        """Count one, for one of DROP_REASONS. `caller` is whose it is, if that is known."""
        self._dropped[reason].inc()
        self._families.count(self._families.caller_dropped, self.model, caller, 1)


class ModelMetrics(DropMetrics):
    """The metrics of one version of a model, from its load until `end`."""

    def __init__(self, families: ModelFamilies, model: str):
        super().__init__(families, model)
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
        self._families.count(self._families.caller_tokens, self.model, caller, tokens)

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
