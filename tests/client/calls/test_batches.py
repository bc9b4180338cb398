"""Batches: how they are cut into requests, and what becomes of them where the limits change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from bilstm_client import (
    InvalidInput,
    ModelNotFound,
    State,
)
from bilstm_client.types import Array, OutputName
from tests.client.calls.encodings import (
    ALL_OUTPUTS,
    HIDDEN_SIZE,
    X,
    arrays_of,
    assert_same,
    calls,
    sequence,
)
from tests.client.clients import AnyClient, Connect
from tests.support.servers import RunningServer, settings


def test_batch_order(client: AnyClient, server: RunningServer) -> None:
    """A batch's results are in the order of its sequences, each as if encoded alone; one RPC."""
    sequences = [sequence(steps) for steps in (3, 1, 12, 5, 1)]
    alone = [client.encode(x, outputs=ALL_OUTPUTS) for x in sequences]
    before = calls(server)
    batch = client.encode_batch(iter(sequences), outputs=ALL_OUTPUTS)
    assert calls(server) == before + 1
    for one, other in zip(batch, alone, strict=True):
        assert_same(one, other)


def test_empty_batch(client: AnyClient, server: RunningServer) -> None:
    """No sequences give no results, and no RPC."""
    before = calls(server)
    assert client.encode_batch([]) == []
    assert client.encode_batch([], initial_states=[]) == []
    assert calls(server) == before


# What is encoded, how, and the RPCs that the limit needs.
SPLITS: dict[str, tuple[list[Array], dict[str, Any], int]] = {
    "within limits": ([sequence(1) for _ in range(4)], {}, 1),
    "sequences": ([sequence(1, i) for i in range(10)], {}, 3),
    "steps": ([np.arange(40) % 20] * 5, {"model": "tokens", "outputs": ["final"]}, 3),
    "request bytes": ([sequence(20, i) for i in range(9)], {"outputs": ["final"]}, 3),
    "reply bytes": ([sequence(10, i) for i in range(9)], {}, 3),
    "reply bytes in half": (
        [sequence(10, i) for i in range(8)],
        {"output_data_type": "float16"},
        2,
    ),
    "reply bytes of states": (
        [sequence(3, i) for i in range(9)],
        {"outputs": ALL_OUTPUTS},
        3,
    ),
}


@pytest.mark.parametrize("limit", SPLITS)
def test_split_by(limit: str, limited_client: AnyClient, limited: RunningServer) -> None:
    """A batch beyond a limit is sent in as few RPCs as it needs, and comes back whole."""
    sequences, options, needed = SPLITS[limit]
    alone = [limited_client.encode(x, **options) for x in sequences]
    before = calls(limited)
    batch = limited_client.encode_batch(sequences, **options)
    assert calls(limited) - before == needed
    for one, other in zip(batch, alone, strict=True):
        assert_same(one, other)


def test_split_with_initial_states(limited_client: AnyClient) -> None:
    """Each part of a batch takes its own sequences' initial states along."""
    sequences = [sequence(2, i) for i in range(9)]
    states = [
        State(*np.random.default_rng(i).standard_normal((2, 4, HIDDEN_SIZE))) for i in range(9)
    ]
    batch = limited_client.encode_batch(sequences, initial_states=states)
    pairs = limited_client.encode_batch(
        sequences, initial_states=[(state.hidden, state.cell) for state in states]
    )
    for x, state, encoding, other in zip(sequences, states, batch, pairs, strict=True):
        assert_same(encoding, limited_client.encode(x, initial_state=state))
        assert_same(encoding, other)


@given(
    lengths=st.lists(st.integers(1, 20), max_size=14),
    outputs=st.sets(st.sampled_from(ALL_OUTPUTS), min_size=1),
)
@hypothesis_settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # the client keeps no results
)
def test_any_batch(lengths: list[int], outputs: set[OutputName], limited_client: AnyClient) -> None:
    """However long its sequences are, no batch whose sequences keep the limits is refused."""
    asked = sorted(outputs)
    batch = limited_client.encode_batch([sequence(n) for n in lengths], outputs=asked)
    assert len(batch) == len(lengths)
    for n, encoding in zip(lengths, batch, strict=True):
        assert arrays_of(encoding).keys() == {
            name for o in asked for name in (("hidden", "cell") if o == "state" else (o,))
        }
        if "states" in encoding.outputs:
            assert len(encoding.states) == n


@contextmanager
def successor(closed: RunningServer, **values: object) -> Iterator[RunningServer]:
    """Another server at the address of one that is closed."""
    running = RunningServer(settings(port=closed.app.port, **values))
    try:
        yield running
    finally:
        running.close()


@pytest.fixture
def predecessor(model_folder: Path) -> RunningServer:
    """A server with the usual limits, whose clients are to meet its successor."""
    return RunningServer(settings(model=[("small", model_folder)]))


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        ({"max_request_sequences": 4}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"max_message_bytes": 1000}, grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
)
def test_new_limits(
    limits: dict[str, int],
    code: grpc.StatusCode,
    connect: Connect,
    predecessor: RunningServer,
    model_folder: Path,
) -> None:
    """What a restarted server's new limits refuse once is cut by them the next time."""
    client = connect(predecessor.target)
    before = client.encode_batch([X] * 8, outputs=["final"])
    predecessor.close()
    with successor(predecessor, model=[("small", model_folder)], **limits) as server:
        with pytest.raises(InvalidInput) as caught:
            client.encode_batch([X] * 8, outputs=["final"])
        assert (caught.value.code, caught.value.field) == (code, "sequences")
        after = client.encode_batch([X] * 8, outputs=["final"])
        assert calls(server, "GetModel") == 1
        client.close()
    for one, other in zip(before, after, strict=True):
        assert_same(one, other)


def test_model_that_is_gone(
    connect: Connect, predecessor: RunningServer, model_folder: Path
) -> None:
    """A model that a restarted server has no more is asked for again by the next call."""
    client = connect(predecessor.target)
    client.encode_batch([X, X], model="small")
    predecessor.close()
    with successor(predecessor, model=[("other", model_folder)]) as server:
        for asked in (0, 1):
            with pytest.raises(ModelNotFound):
                client.encode_batch([X, X], model="small")
            assert calls(server, "GetModel") == asked
        client.close()


def test_error_names_the_callers_index(limited_client: AnyClient) -> None:
    """A fault in a later part is named by the sequence's place in the caller's batch."""
    sequences = [sequence(1, i) for i in range(20)]
    with pytest.raises(InvalidInput) as caught:
        limited_client.encode_batch([*sequences[:13], np.ones((1, 4), "f4"), *sequences[14:]])
    assert caught.value.field == "sequences[13].shape"
    assert str(caught.value).startswith("INVALID_ARGUMENT: sequences[13].shape: ")
    state = State(np.zeros((4, HIDDEN_SIZE)), np.zeros((4, HIDDEN_SIZE)))
    wrong = State(np.zeros((4, 2)), np.zeros((4, HIDDEN_SIZE)))
    with pytest.raises(InvalidInput) as caught:
        limited_client.encode_batch(
            sequences, initial_states=[*[state] * 13, wrong, *[state] * (len(sequences) - 14)]
        )
    assert caught.value.field == "initial_states[13].hidden.shape"


def test_states_must_be_one_per_sequence(client: AnyClient) -> None:
    """Initial states that are not one per sequence are a ValueError."""
    state = State(np.zeros((4, HIDDEN_SIZE)), np.zeros((4, HIDDEN_SIZE)))
    with pytest.raises(ValueError, match="one per sequence: 2, got 1"):
        client.encode_batch([X, X], initial_states=[state])
