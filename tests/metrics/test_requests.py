"""What a scrape says of requests, known to the token: which are waiting, computed, counted, or
dropped.
"""

from __future__ import annotations

import pytest

from bilstm_server.metrics import DROP_REASONS
from tests.metrics.traffic import BATCHES, Traffic, labels_of

CODES = {
    "OK": 5,
    "UNAVAILABLE": 1,
    "INVALID_ARGUMENT": 3,
    "NOT_FOUND": 2,
    "RESOURCE_EXHAUSTED": 1,
    "DEADLINE_EXCEEDED": 1,
    "CANCELLED": 1,
    "INTERNAL": 1,
}
DROPPED = {
    ("small", "invalid"): 2,  # a wrong width, an unknown output
    ("small", "overloaded"): 1,
    ("small", "expired"): 1,
    ("small", "cancelled"): 1,
    ("small", "failed"): 1,
    ("", "invalid"): 3,  # an unknown model, an unknown version, and unreadable bytes
    ("", "loading"): 1,
}


def test_waiting_sequences(seen: Traffic) -> None:
    """While the engine was busy the gauges showed exactly those that waited, and afterwards
    none."""
    assert seen.waiting.nonzero("bilstm_queue_sequences", "model") == {("small",): 3}
    assert seen.waiting.nonzero("bilstm_queue_tokens", "model") == {("small",): 2 + 4 + 5}
    assert seen.after.nonzero("bilstm_queue_sequences", "model") == {}
    assert seen.after.nonzero("bilstm_queue_tokens", "model") == {}


def test_sequences_and_tokens(seen: Traffic) -> None:
    """What was encoded is counted, and nothing else."""
    sequences = {(m,): sum(map(len, batches)) for m, batches in BATCHES.items()}
    tokens = {(m,): sum(map(sum, batches)) for m, batches in BATCHES.items()}
    assert seen.after.nonzero("bilstm_sequences_total", "model") == sequences
    assert seen.after.nonzero("bilstm_tokens_total", "model") == tokens


@pytest.mark.parametrize("model", BATCHES)
def test_batches(seen: Traffic, model: str) -> None:
    """The histograms of batches hold exactly the batches that were computed."""
    sizes = {
        "bilstm_batch_sequences": [len(batch) for batch in BATCHES[model]],
        "bilstm_batch_tokens": [sum(batch) for batch in BATCHES[model]],
    }
    for name, observed in sizes.items():
        assert seen.after.value(f"{name}_count", model=model) == len(observed)
        assert seen.after.value(f"{name}_sum", model=model) == sum(observed)
        buckets = seen.after.at_most(name, model)
        assert buckets == {le: sum(size <= le for size in observed) for le in buckets}
        assert len(buckets) > 10


@pytest.mark.parametrize("model", BATCHES)
def test_durations(seen: Traffic, model: str) -> None:
    """The durations are those that the callers were told: each batch's computation once, each
    sequence's wait once."""
    replies = seen.replies[model]
    queued = [r.timing.queue.ToTimedelta().total_seconds() for r in replies for _ in r.encodings]
    # The callers of one batch are all told of the same computation.
    computed = {r.timing.compute.ToTimedelta().total_seconds() for r in replies}
    for name, durations in (
        ("bilstm_queue_seconds", queued),
        ("bilstm_batch_compute_seconds", computed),
    ):
        assert seen.after.value(f"{name}_count", model=model) == len(durations)
        total = seen.after.value(f"{name}_sum", model=model)
        assert total == pytest.approx(sum(durations), abs=1e-5)
        bounds = sorted(seen.after.at_most(name, model))
        assert (bounds[0], bounds[-2]) == (0.0001, 10.0)


def test_dropped(seen: Traffic) -> None:
    """Each request without a result is counted once, under its reason and model."""
    assert seen.after.nonzero("bilstm_dropped_total", "model", "reason") == DROPPED


def test_callers(seen: Traffic) -> None:
    """What a named caller got is counted, in batches of every model, and what of its calls was
    dropped once they were read."""
    tokens = seen.after.nonzero("bilstm_caller_tokens_total", "model", "caller")
    assert tokens == {
        (model, "127.0.0.1"): sum(map(sum, batches)) for model, batches in BATCHES.items()
    }
    dropped = seen.after.nonzero("bilstm_caller_dropped_total", "model", "caller")
    assert dropped["small", "127.0.0.1"] == sum(n for (m, _), n in DROPPED.items() if m == "small")


def test_reasons_are_there_before_they_happen(seen: Traffic) -> None:
    """Each reason of each model is there from the start, at zero, so that a rate can be taken."""
    reasons = set(DROP_REASONS)
    for model in BATCHES:
        for reason in reasons:
            seen.waiting.value("bilstm_dropped_total", model=model, reason=reason)


def test_encode_calls(seen: Traffic) -> None:
    """Each Encode call is counted when it starts and, once, with the code it ended with."""
    calls = seen.after.nonzero("grpc_server_handled_total", "grpc_method", "grpc_code")
    codes = {code: n for (method, code), n in calls.items() if method == "Encode"}
    assert codes == CODES
    labels = labels_of("Encode")
    assert seen.after.value("grpc_server_started_total", **labels) == sum(CODES.values())
    assert seen.after.value("grpc_server_handling_seconds_count", **labels) == sum(CODES.values())
    assert seen.after.value("grpc_server_handling_seconds_sum", **labels) > 0


@pytest.mark.parametrize(
    ("method", "codes"),
    [
        ("ListModels", {"OK": 1}),
        ("GetModel", {"OK": 2, "NOT_FOUND": 1}),
        ("Check", {"OK": 1, "NOT_FOUND": 1}),
        ("Watch", {"CANCELLED": 1}),
        ("ServerReflectionInfo", {"OK": 1}),
    ],
)
def test_other_calls(seen: Traffic, method: str, codes: dict[str, int]) -> None:
    """All other methods are counted too, streams as one call each."""
    labels = labels_of(method)
    for code, count in codes.items():
        handled = seen.after.value("grpc_server_handled_total", **labels, grpc_code=code)
        assert handled == count
    assert seen.after.value("grpc_server_started_total", **labels) == sum(codes.values())
    assert seen.after.value("grpc_server_handling_seconds_count", **labels) == sum(codes.values())
