"""`bilstm models`: what the server has, and what each model takes and gives."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from ..client import Client
from ..types import Model
from .printing import printable


def run(client: Client, parsed: argparse.Namespace) -> None:
    for index, model in enumerate(client.list_models()):
        print(printable(f"{model.name} version {model.version}{'' if index else ' (default)'}"))
        for name, value in _facts(model):
            print(printable(f"  {name:8} {value}"))


def _facts(model: Model) -> Iterator[tuple[str, str]]:
    yield "takes", ", ".join(_takes(model))
    sizes = f"hidden {model.hidden_size}, layers {model.num_layers}"
    sizes += ", bidirectional" if model.bidirectional else ", unidirectional"
    yield "sizes", sizes + (f", projection {model.proj_size}" if model.proj_size else "")
    yield "outputs", ", ".join(model.outputs)
    if model.num_classes:
        labels = f", with {len(model.labels)} labels" if model.labels else ""
        yield "classes", f"{model.num_classes}{labels}"
    limits = model.limits
    yield (
        "limits",
        f"{limits.max_sequence_tokens:,} steps in a sequence; {limits.max_request_sequences:,} "
        f"sequences, {limits.max_request_tokens:,} steps and {limits.max_message_bytes:,} bytes "
        f"in a request; {limits.max_stream_sequences:,} sequences and {limits.max_stream_bytes:,} "
        "bytes in flight in a stream",
    )


def _takes(model: Model) -> Iterator[str]:
    if len(model.inputs) > 1:
        for own in model.inputs:
            yield f"{own.name} {_form(own.ids, own.width)}"
    else:
        yield _form(model.num_embeddings, model.input_size)


def _form(ids: int, width: int) -> str:
    return f"[T] token ids below {ids}" if ids else f"[T, {width}] floats"
