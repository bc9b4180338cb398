"""What calls are sent, and what their encodings have."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np

from bilstm_client import (
    Encoding,
)
from bilstm_client.types import Array, OutputName
from tests.support.engines import Gated
from tests.support.servers import RunningServer

INPUT_SIZE, HIDDEN_SIZE, LAYERS, CLASSES = 5, 6, 2, 3  # of the model that `server` has first
ALL_OUTPUTS: tuple[OutputName, ...] = ("states", "final", "mean", "max", "logits", "state")

X = np.random.default_rng(0).integers(-3, 4, (7, INPUT_SIZE)).astype(np.float32)
IDS = np.array([3, 0, 19, 7, 7, 1])

CALLS: dict[str, Callable[..., object]] = {
    "encode": lambda client, **options: client.encode(X, **options),
    "encode_batch": lambda client, **options: client.encode_batch([X], **options),
    "list_models": lambda client, **options: client.list_models(**options),
    "get_model": lambda client, **options: client.get_model(**options),
}


def arrays_of(encoding: Encoding) -> dict[str, Array]:
    """All that an encoding has, by name."""
    named: dict[str, Array] = {o: getattr(encoding, o) for o in encoding.outputs if o != "state"}
    if "state" in encoding.outputs:
        named |= {"hidden": encoding.state.hidden, "cell": encoding.state.cell}
    return named


def assert_same(one: Encoding, other: Encoding) -> None:
    """A sequence's batch mates may move its last bits, and no more."""
    ours, theirs = arrays_of(one), arrays_of(other)
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_allclose(array, theirs[name], rtol=0, atol=1e-6, err_msg=name)


def sequence(steps: int, seed: int = 0) -> Array:
    rng = np.random.default_rng((seed, steps))
    return rng.standard_normal((steps, INPUT_SIZE), dtype=np.float32)


def calls(server: RunningServer, method: str = "Encode") -> float:
    """How many RPCs of the method the server has seen."""
    labels = {
        "grpc_type": "unary",
        "grpc_service": "bilstm.v1.EncoderService",
        "grpc_method": method,
    }
    registry = server.app.metrics.registry
    return registry.get_sample_value("grpc_server_started_total", labels) or 0.0


def wait_at(gate: Gated) -> None:
    """Return when one more batch stands at the gate."""
    asyncio.run(gate.engines["small"].arrival())
