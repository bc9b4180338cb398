"""Integers that are sent as features, since they are not [T], to a model that takes token ids."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from bilstm_client import InvalidInput, Live
from tests.client.clients import AnyClient

SENT: dict[str, Callable[[AnyClient, Any], object]] = {
    "encode": lambda client, x: client.encode(x, model="tokens"),
    "encode_batch": lambda client, x: client.encode_batch([x], model="tokens"),
    "encode_stream": lambda client, x: list(client.encode_stream([x], model="tokens")),
    "encode_chunks": lambda client, x: list(client.encode_chunks([iter([x])], model="tokens")),
    "live": lambda client, x: list(client.encode_chunks([iter([x])], model="tokens", live=Live(2))),
}
SHAPES: dict[str, tuple[Any, list[int]]] = {
    "batch of one": ([[1, 2, 3]], [1, 3]),
    "batch": (np.ones((4, 3), "i8"), [4, 3]),
    "column": (torch.ones(3, 1, dtype=torch.int32), [3, 1]),
    "scalar": (7, []),
}


@pytest.mark.parametrize("method", SENT)
@pytest.mark.parametrize("shape", SHAPES)
def test_shape(shape: str, method: str, client: AnyClient) -> None:
    """They are refused for their shape, and not as the floats that they were sent as."""
    x, given = SHAPES[shape]
    for sent, field in ((x, "sequences[0].shape"), ({"tokens": x}, "sequences[0].tokens.shape")):
        with pytest.raises(InvalidInput) as caught:
            SENT[method](client, sent)
        assert caught.value.field == field
        assert caught.value.expected == f"must be [T] of token ids, got {given}"
