"""The chain that was found, as a table for its owner to compare with the module."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ...config import ModelConfig

_HEADER = ("in the file", "layer", "reads", "gives")


def table(config: ModelConfig, chain: Collection[str], sources: Mapping[str, str]) -> list[str]:
    """A line for each layer of the chain: its module in the file, if it has weights, its type, and
    what it reads and gives."""
    rows = [_HEADER]
    for layer in config.layers:
        if layer.name in chain:
            entry = layer.model_dump()
            reads = " + ".join(config.values[name].describe() for name in layer.inputs)
            gives = config.values[layer.name].describe()
            source = sources.get(layer.name, "")
            name = entry.get("function") or entry["type"]
            learned = ", initial states" if entry.get("initial_states") else ""
            rows.append((source, name + learned, reads, gives))
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
