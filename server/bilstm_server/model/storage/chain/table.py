"""The layers of a model, as a table for its owner to compare with the module."""

from __future__ import annotations

from collections.abc import Mapping

from ...config import ModelConfig

_HEADER = ("in the file", "layer", "reads", "gives")


def table(config: ModelConfig, sources: Mapping[str, str]) -> list[str]:
    """A line for each layer of `sources`, which says what it is in the file: its type, and what it
    reads and gives."""
    rows = [_HEADER]
    for layer in config.layers:
        if layer.name in sources:
            entry = layer.model_dump()
            reads = " + ".join(config.values[name].describe() for name in layer.inputs)
            gives = config.values[layer.name].describe()
            kind = entry.get("function") or entry["type"]
            learned = ", initial states" if entry.get("initial_states") else ""
            rows.append((sources[layer.name], kind + learned, reads, gives))
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
