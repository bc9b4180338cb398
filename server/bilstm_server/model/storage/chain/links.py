"""What a chain is made of, and what its owner says of it that no tensor tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from .found import Found

Direction = Literal["to-from", "from-to"]

# In the words of a module with `batch_first`.
POOLINGS = {
    "last": "output[:, -1]",
    "first": "output[:, 0]",
    "final": "torch.cat((h_n[-2], h_n[-1]), 1)",
    "mean": "output.mean(1)",
    "max": "output.max(1).values",
    "sum": "output.sum(1)",
}
# The layers without weights that may stand in a chain, and their entries in config.json.
ACTIVATIONS = {
    name: {"type": "activation", "function": name}
    for name in (
        "relu",
        "tanh",
        "sigmoid",
        "gelu",
        "gelu_tanh",
        "elu",
        "leaky_relu",
        "silu",
        "selu",
        "mish",
        "softplus",
        "softsign",
        "hardtanh",
        "relu6",
    )
}
ENDINGS: Mapping[str, Mapping[str, Any]] = {
    "softmax": {"type": "softmax"},
    "log_softmax": {"type": "softmax", "log": True},
    "normalize": {"type": "normalize"},
    "argmax": {"type": "argmax"},
}
CONNECTIONS = {
    "residual": "what the LSTM before read is added to what it gives",
    "joined": "the outputs of all LSTMs so far, side by side",
    "sum_directions": "the forward direction's output and the backward one's, added",
}
WORDS = frozenset({*POOLINGS, *ACTIVATIONS, *ENDINGS, *CONNECTIONS})


@dataclass(frozen=True)
class Module:
    """A module of the checkpoint in the chain. `embeds`: by ids, where it is a weight alone."""

    found: Found
    embeds: bool = False


@dataclass(frozen=True)
class Word:
    """A layer without weights, by one of `WORDS`."""

    word: str


@dataclass(frozen=True)
class Floats:
    """An input of the model: so many floats at each step."""

    name: str
    width: int


@dataclass(frozen=True)
class Joined:
    """Several values side by side: inputs and what reads them, or poolings of one value."""

    parts: tuple[Module | Word | Floats, ...]


Link = Module | Word | Floats | Joined


@dataclass(frozen=True)
class Chain:
    """Links one after the other, and heads that each read the last one's value."""

    links: Sequence[Link]
    heads: dict[str, Sequence[Link]] = field(default_factory=dict)  # by their outputs' names


@dataclass(frozen=True)
class Said:
    """What the owner of a checkpoint says of it; see the help of `bilstm-server import`."""

    lstm_prefixes: Sequence[str] = ()
    head_prefixes: Sequence[str] = ()
    embedding_prefixes: Sequence[str] = ()
    pooling: str | None = None
    per_step: bool = False
    head_activation: str | None = None  # "none" for none
    head: bool = True
    embedding: bool = True
    ignore_unused: bool = False
    chain: str | None = None  # the whole chain, in words
    crf: Direction | None = None  # how a matrix with START and STOP in it lies
