"""A stream's messages -> what the batcher takes: every field checked. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bilstm.v1 import encoder_pb2 as pb

from ....engine.sequences import Array
from ....errors import InvalidInput
from ....model.config import ModelConfig
from ....model.incremental.exactness import Exactness
from ....serving.checks import check_live
from ....settings import RequestLimits
from ..messages import SequenceChunk
from ..requests import (
    Given,
    check_inputs,
    decode_inputs,
    match_inputs,
    parse_outputs,
    parse_reply_dtype,
    parse_state,
    unnamed,
)

MAX_LOOKAHEAD = 32  # blocks
_OWN_MEMORY_RATIO = 2  # a message so many times as large as its steps is not kept for them


@dataclass(frozen=True, slots=True)
class LiveOptions:
    """How a live stream's sequences are cut into blocks."""

    block_steps: int
    lookahead_steps: int
    exactness: Exactness  # of the outputs, in such blocks


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """What a stream asks for, in its first message, for all of its sequences."""

    outputs: frozenset[str]
    reply_dtype: np.dtype[np.generic]
    any_order: bool
    live: LiveOptions | None


def parse_stream_options(
    options: pb.StreamOptions, config: ModelConfig, limits: RequestLimits
) -> StreamOptions:
    """Return what the first message asks for. Raises `InvalidInput`, naming the first field that is
    not what it must be."""
    reply_dtype = parse_reply_dtype(options.output_data_type, "options.output_data_type")
    outputs = parse_outputs(options.outputs, options.output_names, "options.", config)
    live = None
    if options.HasField("live"):
        check_live(outputs, "options.outputs", config)
        live = _live_options(options.live, outputs, config, limits)
    return StreamOptions(outputs, reply_dtype, options.any_order, live)


def _live_options(
    live: pb.Live, outputs: frozenset[str], config: ModelConfig, limits: RequestLimits
) -> LiveOptions:
    if live.block_steps < 1:
        raise InvalidInput(
            "options.live.block_steps", f"must be at least 1, got {live.block_steps}"
        )
    if live.lookahead_steps < 0:
        raise InvalidInput(
            "options.live.lookahead_steps", f"must not be negative, got {live.lookahead_steps}"
        )
    limit, steps = limits.max_block_tokens, live.block_steps + live.lookahead_steps
    if steps > limit:
        raise InvalidInput(
            "options.live", f"a block and its look-ahead must be at most {limit} steps, got {steps}"
        )
    if live.lookahead_steps > MAX_LOOKAHEAD * live.block_steps:  # each step is computed as often
        raise InvalidInput(
            "options.live.lookahead_steps",
            f"must be at most {MAX_LOOKAHEAD} times block_steps, got {live.lookahead_steps}",
        )
    exactness = Exactness(config, outputs, live.lookahead_steps)
    return LiveOptions(live.block_steps, live.lookahead_steps, exactness)


def parse_steps(chunk: SequenceChunk, config: ModelConfig) -> tuple[Array, ...] | None:
    """Return a chunk's steps of each of the model's inputs, [t, width] or [t], over the message's
    bytes; None if it has none. Raises `InvalidInput`."""
    inputs = _inputs_of(chunk, config)
    if not inputs or not check_inputs(inputs, config):
        return None
    arrays = decode_inputs(inputs, config)
    whole = memoryview(inputs[0].tensor.data.obj).nbytes
    return _own(arrays, whole)


def _inputs_of(chunk: SequenceChunk, config: ModelConfig) -> tuple[Given, ...]:
    if chunk.inputs:
        if chunk.steps is not None:
            raise InvalidInput("steps", "must be absent where inputs are given")
        return match_inputs(chunk.inputs, "", config)
    if chunk.steps is None:
        return ()
    if len(config.inputs) > 1:
        raise InvalidInput("steps", unnamed(config))
    return (Given(chunk.steps, "steps"),)


def parse_initial_state(chunk: SequenceChunk, config: ModelConfig) -> tuple[Array, Array] | None:
    """Return the initial state of the sequence that the chunk begins, or None. Raises
    `InvalidInput`."""
    if chunk.initial_state is None:
        return None
    hidden, cell = parse_state(chunk.initial_state, "initial_state", config)
    return hidden.copy(), cell.copy()


def _own(arrays: tuple[Array, ...], whole: int) -> tuple[Array, ...]:
    """Return the steps in memory of their own where they are a small part of their message, which
    has `whole` bytes: all of it would stay as long as they do, and be counted nowhere."""
    if whole <= _OWN_MEMORY_RATIO * sum(array.nbytes for array in arrays):
        return arrays
    return tuple(array.copy() for array in arrays)
