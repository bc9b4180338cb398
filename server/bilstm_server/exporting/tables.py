"""Tables for the owner of a model: the layers that were found, and what was compared."""

from __future__ import annotations

from collections.abc import Sequence

from ..model.config import ModelConfig
from ..model.layers.interface import LayerConfig


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """The rows one below the other, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def layers_table(config: ModelConfig) -> str:
    """A line for each input and layer of a model: what it reads, and what it gives."""
    rows = [("layer", "type", "reads", "gives")]
    rows += [(name, "input", "", config.values[name].describe()) for name in config.inputs]
    for layer in config.layers:
        gives = config.values[layer.name].describe()
        rows.append((layer.name, _described(layer), ", ".join(layer.inputs), gives))
    return aligned(rows)


def _described(layer: LayerConfig) -> str:
    """The type of a layer, and its settings that are numbers or words and not left out. Its width
    is what it gives."""
    entry = layer.model_dump(mode="json", exclude_defaults=True)
    kind = type(layer).model_fields["type"].default
    settings = [
        f"{name}={str(value).lower() if isinstance(value, bool) else value}"
        for name, value in entry.items()
        if name not in ("name", "type", "inputs", "width") and isinstance(value, str | int | float)
    ]
    return " ".join([kind, *settings])
