"""What a reply means for one sequence: the rows of its steps are put together, or handed on as they
come. No I/O but the files that the caller has named.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb

from .._calls import messages
from .._calls.status import no_token_ids, sequence_error
from ..errors import EncoderError, InvalidInput, NotSaved, SequenceFailure, ServerError
from ..types import Array, Encoding, EncodingChunk, OutputInfo
from .entries import Entry
from .options import StreamOptions
from .rows import RowsInFile, RowsInMemory

Infos = Mapping[str, OutputInfo]  # of the requested outputs, by name


def receive(entry: Entry, chunk: pb.EncodingChunk, options: StreamOptions, infos: Infos) -> None:
    """Add what the chunk completes to the entry's results: an error, or what was requested."""
    if chunk.HasField("error"):
        _fail(entry, entry.failure or _error(entry, chunk.error))
        return
    if not entry.failure:
        before, rows = entry.received, _new_rows(entry, chunk, infos)
        if options.in_chunks:
            _hand_on(entry, chunk, before, rows, infos)
        else:
            _put_together(entry, chunk, rows, options, infos)
    if not chunk.last:
        return
    if entry.failure:  # what was sent before it failed has a result, for which no one asks
        _fail(entry, entry.failure)
    entry.answered = True


def _fail(entry: Entry, error: SequenceFailure) -> None:
    entry.discard()
    entry.results.append(error)
    entry.answered = True


def _error(entry: Entry, message: pb.SequenceError) -> EncoderError:
    error = sequence_error(message, entry.index)
    if isinstance(error, InvalidInput) and error.field.endswith(".data_type"):
        name = error.field.removeprefix(entry.name).removesuffix("data_type").strip(".")
        shape = entry.sent.features.get(name)
        if shape is not None:
            error = no_token_ids(error, shape)
    error.key = entry.key
    error.index = entry.index
    return error


# -- rows of steps -------------------------------------------------------------------------------


def _new_rows(entry: Entry, chunk: pb.EncodingChunk, infos: Infos) -> dict[str, Array]:
    """The chunk's rows, read-only, less those that came before the connection broke."""
    new = {}
    first_step = steps = chunk.first_step
    found = messages.tensors_of(chunk.encoding)
    for name, info in infos.items():
        if not info.per_step or name not in found:
            continue
        rows = _decoded(entry, name, found[name])
        before = entry.sent.counts.get(name, 0)
        if not info.windows and not info.sparse:
            if first_step != before:
                raise _broken(entry, f"{name} of step {first_step} come after {before} steps")
            steps = first_step + len(rows)
        known = entry.counts.get(name, 0)
        entry.sent.counts[name] = before + len(rows)
        entry.counts[name] = max(known, before + len(rows))
        new[name] = rows[known - before :] if known > before else rows
    entry.received = max(entry.received, steps)
    return new


def _decoded(entry: Entry, name: str, tensor: pb.Tensor) -> Array:
    """Rows that are of one type and width with those before."""
    try:
        rows: Array = tensors.decode(tensor)
    except tensors.TensorError as error:
        raise _broken(entry, str(error)) from error
    before = entry.no_rows.get(name)
    if rows.ndim != (1 if tensor.data_type in tensors.INTEGERS else 2) or (
        before is not None and (rows.shape[1:], rows.dtype) != (before.shape[1:], before.dtype)
    ):
        raise _broken(entry, f"{name} are {rows.dtype}{list(rows.shape)}")
    if before is None:
        entry.no_rows[name] = rows[:0].copy()
    return rows


def _hand_on(
    entry: Entry, chunk: pb.EncodingChunk, first_step: int, rows: dict[str, Array], infos: Infos
) -> None:
    if not (chunk.last or any(map(len, rows.values()))):  # all of it was handed on before
        return
    encoding = None
    if chunk.last:
        in_chunks = {name for name, info in infos.items() if info.per_step}
        encoding = _encoding(entry, chunk, infos, in_chunks=in_chunks)
    entry.results.append(
        EncodingChunk(
            entry.key,
            first_step,
            {name: rows.get(name, none).copy() for name, none in entry.no_rows.items()},
            chunk.last,
            chunk.forward_exact,
            chunk.reverse_exact,
            encoding,
            label_names=messages.label_names(infos),
        )
    )


def _put_together(
    entry: Entry,
    chunk: pb.EncodingChunk,
    rows: dict[str, Array],
    options: StreamOptions,
    infos: Infos,
) -> None:
    path: Any = None
    try:
        for name, new in rows.items():
            total = infos[name].rows(entry.sent.steps)
            if not entry.sent.whole or entry.counts[name] > total:
                raise _broken(entry, f"{name} of steps that it has not")
            if name not in entry.rows:
                saved = options.save_states if name == "states" else None
                path = None if saved is None else saved(entry.key)
                entry.rows[name] = RowsInMemory() if path is None else RowsInFile(Path(path))
            entry.rows[name].add(new, total)
        if chunk.last:
            _complete(entry, chunk, options, infos)
    except OSError as error:
        path = getattr(entry.rows.get("states"), "path", path)
        filename = error.filename if path is None else str(path)
        entry.sent.failure = NotSaved(error, filename, entry.index, entry.key)
        entry.sent.failure.__cause__ = error


def _complete(entry: Entry, chunk: pb.EncodingChunk, options: StreamOptions, infos: Infos) -> None:
    whole = {}
    for name, rows in entry.rows.items():
        if rows.count < infos[name].rows(entry.sent.steps) and not infos[name].sparse:
            raise _broken(entry, f"{name} ended after row {rows.count}")
        whole[name] = rows.whole()
    result = _encoding(entry, chunk, infos, whole)
    messages.check_complete(result, options.encode, entry.name)
    entry.results.append(result)


def _encoding(
    entry: Entry, chunk: pb.EncodingChunk, infos: Infos, *rows: Any, **in_chunks: Any
) -> Encoding:
    timing, names = messages.timing(chunk.timing), messages.label_names(infos)
    try:
        return messages.encoding(chunk.encoding, timing, names, *rows, **in_chunks)
    except tensors.TensorError as error:
        raise _broken(entry, str(error)) from error


def _broken(entry: Entry, what: str) -> ServerError:
    message = f"the server's reply to {entry.name} is broken: {what}"
    return ServerError(grpc.StatusCode.INTERNAL, message)
