"""What a reply means for one sequence: its states are put together, or handed on as they come. No
I/O but the files that the caller has named.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb

from .._calls import messages
from .._calls.status import no_token_ids, sequence_error
from ..errors import EncoderError, InvalidInput, NotSaved, SequenceFailure, ServerError
from ..types import Array, Encoding, EncodingChunk
from .entries import Entry
from .options import StreamOptions
from .states import StatesInFile, StatesInMemory


def receive(entry: Entry, chunk: pb.EncodingChunk, options: StreamOptions) -> None:
    """Add what the chunk completes to the entry's results: an error, or what was requested."""
    if chunk.HasField("error"):
        _fail(entry, entry.failure or _error(entry, chunk.error))
        return
    if not entry.failure:
        states = _new_states(entry, chunk)
        if options.in_chunks:
            _hand_on(entry, chunk, states)
        else:
            _put_together(entry, chunk, states, options)
    if not chunk.last:
        return
    if entry.failure:  # what was sent before it failed has a result, for which no one asks
        _fail(entry, entry.failure)
    entry.answered = True


def _fail(entry: Entry, error: SequenceFailure) -> None:
    if entry.states is not None:
        entry.states.discard()
    entry.results.append(error)
    entry.answered = True


def _error(entry: Entry, message: pb.SequenceError) -> EncoderError:
    error = sequence_error(message, entry.index)
    features = entry.sent.features
    if features and isinstance(error, InvalidInput) and error.field.endswith(".data_type"):
        error = no_token_ids(error, features)
    error.key = entry.key
    error.index = entry.index
    return error


def _new_states(entry: Entry, chunk: pb.EncodingChunk) -> Array | None:
    """The chunk's states, read-only, less those that came before the connection broke."""
    if not chunk.encoding.HasField("states"):
        return None
    try:
        states: Array = tensors.decode(chunk.encoding.states)
    except tensors.TensorError as error:
        raise _broken(entry, str(error)) from error
    before = entry.no_states
    if states.ndim != 2 or (
        before is not None and (states.shape[1:], states.dtype) != (before.shape[1:], before.dtype)
    ):
        raise _broken(entry, f"states are {states.dtype}{list(states.shape)}")
    entry.no_states = states[:0].copy()
    known = entry.received - chunk.first_step
    if known < 0:
        raise _broken(entry, f"steps {entry.received} to {chunk.first_step} are missing")
    return states[known:] if known else states


def _hand_on(entry: Entry, chunk: pb.EncodingChunk, states: Array | None) -> None:
    first_step = entry.received
    if states is None:
        states = entry.no_states
    elif len(states) or chunk.last:
        entry.received += len(states)
        states = states.copy()
    else:  # all of it was handed on before
        return
    encoding = None
    if chunk.last:
        encoding = _encoding(entry, chunk, None, in_chunks=True)
    entry.results.append(
        EncodingChunk(
            entry.key,
            first_step,
            states,
            chunk.last,
            chunk.forward_exact,
            chunk.reverse_exact,
            encoding,
        )
    )


def _put_together(
    entry: Entry, chunk: pb.EncodingChunk, states: Array | None, options: StreamOptions
) -> None:
    if states is not None and (
        not entry.sent.whole or entry.received + len(states) > entry.sent.steps
    ):
        raise _broken(entry, "states of steps that it has not")
    path: Any = None
    try:
        if states is not None:
            if entry.states is None:
                path = None if options.save_states is None else options.save_states(entry.key)
                entry.states = StatesInMemory() if path is None else StatesInFile(Path(path))
            entry.states.add(states, entry.sent.steps)
            entry.received += len(states)
        if chunk.last:
            _complete(entry, chunk, options)
    except OSError as error:
        path = getattr(entry.states, "path", path)
        filename = error.filename if path is None else str(path)
        entry.sent.failure = NotSaved(error, filename, entry.index, entry.key)
        entry.sent.failure.__cause__ = error


def _complete(entry: Entry, chunk: pb.EncodingChunk, options: StreamOptions) -> None:
    whole = None
    if entry.states is not None:
        if entry.received < entry.sent.steps:
            raise _broken(entry, f"it ended after step {entry.received}")
        whole = entry.states.whole()
    result = _encoding(entry, chunk, whole)
    messages.check_complete(result, options.encode, entry.name)
    entry.results.append(result)


def _encoding(
    entry: Entry, chunk: pb.EncodingChunk, states: Array | None, *, in_chunks: bool = False
) -> Encoding:
    timing = messages.timing(chunk.timing)
    try:
        return messages.encoding(chunk.encoding, timing, states, in_chunks=in_chunks)
    except tensors.TensorError as error:
        raise _broken(entry, str(error)) from error


def _broken(entry: Entry, what: str) -> ServerError:
    message = f"the server's reply to {entry.name} is broken: {what}"
    return ServerError(grpc.StatusCode.INTERNAL, message)
