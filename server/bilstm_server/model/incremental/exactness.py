"""Where the outputs of a live sequence are those of the whole one. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from math import inf
from typing import NamedTuple

from ..config import ModelConfig
from ..layers.interface import WindowConfig
from ..layers.lstm import LstmConfig


class _Reach(NamedTuple):
    """How many steps blocks must look ahead for their rows of a value to be exact."""

    within: float = 0  # of a block behind whose context there are more steps
    at_end: float = 0  # of one whose context reaches the sequence's end, but that is not the first


class Exactness:
    """What of each block's outputs is that of the whole sequence."""

    def __init__(self, config: ModelConfig, outputs: Collection[str], lookahead: int):
        """`lookahead`: the steps that each block looks ahead unless the sequence ends before."""
        reaches = _reaches(config, outputs)
        self._lookahead = lookahead
        self._forward, self._backward = (
            _larger([_Reach(), *(own[direction] for own in reaches)]) for direction in (0, 1)
        )

    def of(self, *, first: bool, reaches_end: bool) -> tuple[bool, bool]:
        """Tell of a block whether the columns that the forward direction makes are exact in all
        outputs, and whether those of the backward one are. Of an output that is not an LSTM's own,
        both stand for all of its columns.

        `first`: it is the sequence's first block. `reaches_end`: its last step, or its context's,
        is the sequence's last one. Columns that are called exact are; in deep graphs others may be,
        too.
        """
        if first and reaches_end:
            return True, True
        forward, backward = (own[reaches_end] for own in (self._forward, self._backward))
        return forward <= self._lookahead, backward <= self._lookahead


def _reaches(config: ModelConfig, outputs: Collection[str]) -> Sequence[tuple[_Reach, _Reach]]:
    """By output: of the forward direction's columns, and of the backward one's."""
    found = {name: (_Reach(), _Reach()) for name in config.inputs}
    for layer in config.needed(outputs):
        x = _larger(own for reference in layer.inputs for own in found[reference])
        match layer:
            case LstmConfig():
                found[layer.name] = _of_lstm(x, layer)
            case WindowConfig():
                at_end = max(x.at_end, x.within) if layer.window.left else x.at_end
                own = _Reach(x.within + layer.window.right, at_end)
                found[layer.name] = (own, own)
            case _:
                found[layer.name] = (x, x)
    return [found[config.outputs[name]] for name in outputs]


def _of_lstm(x: _Reach, lstm: LstmConfig) -> tuple[_Reach, _Reach]:
    # What is carried forward comes from blocks within the sequence. What begins at the end counts
    # as exact where that is: a rule that is easy to know, if not the widest one.
    carried, begun = _Reach(x.within, x.within), _Reach(inf, x.within)
    if not lstm.bidirectional:
        return (begun, begun) if lstm.reverse else (carried, carried)
    if lstm.num_layers > 1:  # the upper ones read both directions
        return _Reach(inf, inf), _Reach(inf, inf)
    return carried, begun


def _larger(reaches: Iterable[_Reach]) -> _Reach:
    within, at_end = zip(*reaches, strict=True)
    return _Reach(max(within), max(at_end))
