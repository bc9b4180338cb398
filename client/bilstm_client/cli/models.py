"""`bilstm models`: what the server has, and what each model takes and gives."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from ..client import Client
from ..errors import PermissionDenied
from ..types import Model
from .printing import printable


def run(client: Client, parsed: argparse.Namespace) -> None:
    models = client.list_models()
    if not models:
        print("the token is for none of the server's models", file=sys.stderr)
        return
    default = _default(client)
    for model in models:
        is_default = (model.name, model.version) == default
        print(printable(f"{model.name} version {model.version}{' (default)' * is_default}"))
        for name, value in _facts(model):
            print(printable(f"  {name:8} {value}"))


def _default(client: Client) -> tuple[str, str] | None:
    """The name and version of the default model, or None where the token is not for it."""
    try:
        model = client.get_model()
    except PermissionDenied:
        return None
    return model.name, model.version


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
