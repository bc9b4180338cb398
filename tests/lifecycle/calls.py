"""Calls to a server that drains, and the judge of their results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb

Array = NDArray[Any]
Judge = Callable[[Array], Array]  # the right states of a sequence, computed alone


def sequence(seed: int, steps: int) -> Array:
    return np.random.default_rng(seed).standard_normal((steps, 5), np.float32)


def request(x: Array) -> pb.EncodeRequest:
    return pb.EncodeRequest(sequences=[tensors.encode(x)])


def is_right(reply: pb.EncodeResponse, x: Array, judge: Judge) -> bool:
    return np.allclose(tensors.decode(reply.encodings[0].states), judge(x), atol=1e-5)


async def ended(call: Any) -> pb.EncodeResponse | grpc.StatusCode:
    """The reply of a call, or the code it failed with."""
    try:
        reply: pb.EncodeResponse = await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return reply
