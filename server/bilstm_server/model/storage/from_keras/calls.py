"""How a Keras config says what each call of a layer reads, in both of its forms. Pure data.

Keras 3 writes `{"args": [tensor, [tensor, …], -1], "kwargs": {…}}`, a tensor being an object with
its history; earlier ones `[["layer", 0, 0, {…}], …]`, a list for each call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

_TENSOR = "__keras_tensor__"


class Source(NamedTuple):
    """One of the results of one call of a layer."""

    layer: str
    call: int = 0
    result: int = 0


@dataclass(frozen=True, slots=True)
class Arguments:
    """What a layer is called with."""

    reads: tuple[Source, ...]
    others: tuple[Any, ...] = ()  # numbers and slices that stand among them
    named: Mapping[str, Any] = field(default_factory=dict)


def parse_call(content: object) -> Arguments:
    """Read one of a layer's `inbound_nodes`."""
    if isinstance(content, Mapping):
        named = content.get("kwargs") or {}
        if not isinstance(named, Mapping):
            raise ValueError("kwargs are no object")
        arguments = content.get("args") or []
        return Arguments(tuple(find_sources(arguments)), tuple(_others(arguments)), named)
    if not isinstance(content, list) or not content:
        raise ValueError("inbound_nodes are no list of calls")
    entries = [content] if isinstance(content[0], str) else content
    named = entries[0][3] if isinstance(entries[0], list) and len(entries[0]) > 3 else {}
    if not isinstance(named, Mapping):
        raise ValueError("inbound_nodes are no list of calls")
    return Arguments(tuple(parse_source(entry) for entry in entries), (), named)


def parse_source(content: object) -> Source:
    """Read `["layer", call, result]`."""
    match content:
        case [str(layer), int(call), int(result), *_]:
            return Source(layer, call, result)
    raise ValueError("reads something that no layer gives")


def find_sources(content: object) -> Iterator[Source]:
    """All tensors in an argument, whatever holds them, in order."""
    if isinstance(content, list):
        for part in content:
            yield from find_sources(part)
    elif isinstance(content, Mapping):
        if content.get("class_name") == _TENSOR:
            config = content.get("config")
            yield parse_source(config.get("keras_history") if isinstance(config, Mapping) else None)
        elif content.get("class_name") is None:
            for part in content.values():
                yield from find_sources(part)


def parse_outputs(content: object) -> Iterator[tuple[str, Source]]:
    """Read a model's `input_layers` or `output_layers`: one source, a list or a dictionary of them.
    One that has no name there has its layer's."""
    if isinstance(content, Mapping):
        for name, part in content.items():
            yield str(name), parse_source(part)
    elif isinstance(content, list) and content and isinstance(content[0], str):
        yield content[0], parse_source(content)
    elif isinstance(content, list):
        for part in content:
            source = parse_source(part)
            yield source.layer, source
    else:
        raise ValueError("the model has no list of its inputs and outputs")


def _others(content: object) -> Iterator[Any]:
    if isinstance(content, list):
        tensors = any(find_sources(content))
        if tensors:
            for part in content:
                yield from _others(part)
        else:
            yield content
    elif not any(find_sources(content)):
        yield content
