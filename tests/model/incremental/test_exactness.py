"""Where a live sequence is exact, as its chunks say. That what they say is so: `test_graphs`."""

from __future__ import annotations

from typing import Any

import pytest

from bilstm_server.model import ModelConfig, PlainConfig
from bilstm_server.model.incremental.exactness import Exactness

CONV = {"name": "conv", "type": "conv1d", "width": 4, "kernel": 5}
LSTM = {"name": "lstm", "type": "lstm", "hidden_size": 6}
ONE_WAY = {**LSTM, "bidirectional": False}

GRAPHS: dict[str, list[dict[str, Any]]] = {
    "rows": [LSTM, {"name": "y", "type": "linear", "inputs": ["x"], "width": 2}],
    "windows": [LSTM, {**CONV, "name": "y", "inputs": ["x"], "padding": "same"}],
    "one way": [ONE_WAY, {"name": "y", "type": "linear", "width": 2}],
    "one way, two": [ONE_WAY, {**ONE_WAY, "name": "y", "num_layers": 2}],
    "past": [{**CONV, "padding": [4, 0]}, {**ONE_WAY, "name": "y"}],
    "ahead, one way": [{**CONV, "padding": "same"}, {**ONE_WAY, "name": "y"}],
    "from the end": [{**ONE_WAY, "name": "y", "reverse": True}],
    "both": [{**LSTM, "name": "y"}],
    "ahead, both": [{**CONV, "padding": "same"}, {**LSTM, "name": "y"}],
    "both, linear": [LSTM, {"name": "y", "type": "linear", "width": 2}],
    "both, ahead": [LSTM, {**CONV, "name": "y", "padding": "same"}],
    "both, two layers": [{**LSTM, "name": "y", "num_layers": 2}],
    "both, twice": [LSTM, {**LSTM, "name": "y"}],
}
NO, YES = (False, False), (True, True)


@pytest.mark.parametrize(
    ("graph", "short", "enough", "end"),
    [
        ("rows", YES, YES, YES),
        ("windows", NO, YES, YES),
        ("one way", YES, YES, YES),
        ("one way, two", YES, YES, YES),
        ("past", YES, YES, YES),
        ("ahead, one way", NO, YES, YES),
        ("from the end", NO, NO, YES),
        ("both", (True, False), (True, False), YES),
        ("ahead, both", NO, (True, False), YES),
        ("both, linear", NO, NO, YES),
        ("both, ahead", NO, NO, NO),
        ("both, two layers", NO, NO, NO),
        ("both, twice", NO, NO, NO),
    ],
)
def test_blocks(
    graph: str, short: tuple[bool, bool], enough: tuple[bool, bool], end: tuple[bool, bool]
) -> None:
    """Within a sequence windows need look-ahead, and the backward direction never has enough; at
    the end it needs what the blocks before had. A sequence of one block is always exact."""
    config = ModelConfig.model_validate(
        {"inputs": {"x": {"width": 5}}, "layers": GRAPHS[graph], "outputs": {"y": "y"}}
    )

    def exact(lookahead: int, first: bool = False, reaches_end: bool = False) -> tuple[bool, bool]:
        exactness = Exactness(config, ["y"], lookahead)
        return exactness.of(first=first, reaches_end=reaches_end)

    assert (exact(1), exact(2)) == (short, enough)
    assert (exact(1, first=True), exact(2, first=True)) == (short, enough)
    assert exact(2, reaches_end=True) == end
    assert exact(0, first=True, reaches_end=True) == YES


def test_the_end_of_what_was_short() -> None:
    """Where blocks looked ahead too little, states at the end come from them, and are not exact.
    Windows of inputs are."""
    ahead = [{**CONV, "padding": "same"}, {**ONE_WAY, "name": "y"}]
    config = ModelConfig.model_validate(
        {"inputs": {"x": {"width": 5}}, "layers": ahead, "outputs": {"y": "y", "conv": "conv"}}
    )
    for output, expected in (("y", NO), ("conv", YES)):
        assert Exactness(config, [output], 1).of(first=False, reaches_end=True) == expected


def test_several_outputs() -> None:
    """Of several outputs together is said what holds for each."""
    config = PlainConfig(input_size=5, hidden_size=6).graph()
    tagger = config.model_copy(update={"outputs": {"states": "lstm", "x": "features"}})
    assert Exactness(tagger, ["x"], 0).of(first=False, reaches_end=False) == YES
    both = Exactness(tagger, ["states", "x"], 0)
    assert both.of(first=False, reaches_end=False) == (True, False)
