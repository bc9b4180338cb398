"""How much host memory a long sequence holds while it is computed in slices. Pure."""

from __future__ import annotations

from collections.abc import Collection

from ..config import ModelConfig


def held_bytes(config: ModelConfig, outputs: Collection[str], itemsize: int) -> tuple[int, int]:
    """The most bytes for each step of a sequence that is computed: beside the inputs, as long as
    these are held, and without them."""
    widths = [config.values[lstm.name].width for lstm in config.lstms]
    layers = [
        width
        for lstm, width in zip(config.lstms, widths, strict=True)
        for _ in range(lstm.num_layers)
    ]
    if "states" not in outputs:
        layers = layers[:-1]
    held = itemsize * (sum(widths[:-1]) + sum(layers[-2:]))
    return itemsize * sum(layers[:1]), held
