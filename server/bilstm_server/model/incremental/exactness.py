"""Which columns of a live block's outputs are those of the whole sequence. Pure."""

from __future__ import annotations

from collections.abc import Collection

from ..config import ModelConfig


def exactness(
    config: ModelConfig,
    outputs: Collection[str],
    *,
    first: bool,
    lookahead: int,
    reaches_end: bool,
) -> tuple[bool, bool]:
    """Tell for each direction of a block's outputs whether its columns are those of the whole
    sequence. The block may be the sequence's first; the steps that were seen may reach its end."""
    (lstm,) = config.lstms
    if not lstm.bidirectional:
        return True, True
    if lstm.num_layers > 1:  # upper layers read both directions of the lower ones
        return (first and reaches_end,) * 2
    return True, reaches_end
