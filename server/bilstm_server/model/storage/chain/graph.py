"""A chain as a graph, with the tensor of the file that is each parameter."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain as chain_of
from itertools import count
from typing import Any

from .found import Found
from .links import (
    ACTIVATIONS,
    CONNECTIONS,
    ENDINGS,
    POOLINGS,
    Chain,
    Floats,
    Joined,
    Link,
    Module,
)
from .selecting import common_prefix

_RESULTS = {  # the names that the last layers' values have for callers
    "softmax": "probabilities",
    "log_softmax": "log_probabilities",
    "normalize": "embedding",
    "argmax": "labels",
}


@dataclass
class Graph:
    """Inputs, layers and outputs as `config.json` has them, without labels and version."""

    inputs: dict[str, dict[str, int]] = field(default_factory=dict)
    layers: list[dict[str, Any]] = field(default_factory=list)
    outputs: dict[str, str] = field(default_factory=dict)
    tensors: dict[str, str] = field(default_factory=dict)  # layer.parameter -> name in the file
    sources: dict[str, str] = field(default_factory=dict)  # layer of the chain -> its module's name


def draw(chain: Chain, found: Sequence[Found]) -> Graph:
    """The graph of a chain of these modules. Raises `ValueError` for words that have no meaning
    where they stand."""
    drawing = _Drawing(common_prefix(found), chain)
    for link in chain.links:
        drawing.follow(link)
    drawing.give_end()
    end, heads = drawing.value, {}
    for prefix, links in chain.heads.items():
        drawing.value = end
        for link in links:
            drawing.follow(link)
        heads[_identifier(prefix.removeprefix(drawing.prefix).rstrip("."))] = drawing.value
    if heads:
        drawing.graph.outputs = heads
    drawing.give_states()
    return drawing.graph


class _Drawing:
    """A graph that grows by a layer at a time. `value` names what the next one reads."""

    def __init__(self, prefix: str, chain: Chain):
        self.prefix = prefix
        self.graph = Graph()
        self.value = ""
        first = chain.links[0]
        parts = first.parts if isinstance(first, Joined) else (first,)
        self._only_table = sum(isinstance(part, Module) and part.embeds for part in parts) == 1
        self._joins = len(parts) > 1
        self._lstms: list[tuple[str, str]] = []  # what each reads, and its value
        self._states = ""
        self._bidirectional = False

    def follow(self, link: Link) -> None:
        """Add what reads the value before, and make its value the next one's."""
        if isinstance(link, Joined):
            before, parts = self.value, []
            for part in link.parts:
                self.value = before
                self.follow(part)
                parts.append(self.value)
            self.value = self._add("joined", {"type": "concat"}, *parts)
            if before:
                self.give("embedding")
        elif isinstance(link, Floats):
            self.value = self._input(link.name, {"width": link.width})
        elif isinstance(link, Module):
            self._follow_module(link.found, link.embeds)
        else:
            self._follow_word(link.word)

    def _follow_module(self, found: Found, embeds: bool) -> None:
        name = _identifier(found.name.removeprefix(self.prefix) or found.kind)
        if embeds:
            table = "tokens" if self._only_table else name
            self.value = self._input(table, {"ids": found.gives})
        elif not self.value:
            self.value = self._input(name if self._joins else "features", {"width": found.reads})
        read = self.value
        self.value = self._add(name, _entry(found, embeds), read)
        self.graph.sources[self.value] = str(found)
        for parameter, tensor in found.parameters.items():
            self.graph.tensors[f"{self.value}.{parameter}"] = tensor
        if found.kind == "lstm":
            self._lstms.append((read, self.value))
            self._bidirectional = found.fields["bidirectional"]
            self._states = self.value
            self.graph.outputs.clear()
        elif self._lstms and found.is_affine:
            self.graph.outputs = {"logits": self.value}
        elif found.kind == "crf":
            self.give("labels")
            self.graph.outputs["score"] = f"{self.value}.score"
        elif "logits" in self.graph.outputs:  # a norm behind the last linear layer
            self.give("logits")

    def _follow_word(self, word: str) -> None:
        if word in CONNECTIONS:
            if not self._lstms:
                raise ValueError(f"--chain: {word} must stand behind an LSTM")
            self.value = self._connect(word)
            self._states = self.value
        elif word in POOLINGS:
            self.value = self._pool(word, self.value)
            self.give(word)
        elif word in ACTIVATIONS:
            self.value = self._add(word, ACTIVATIONS[word], self.value)
        else:
            self.value = self._add(word, ENDINGS[word], self.value)
            self.give(_RESULTS[word])

    def _connect(self, word: str) -> str:
        if word == "residual":
            return self._add(word, {"type": "add"}, self.value, self._lstms[-1][0])
        if word == "joined":
            return self._add(word, {"type": "concat"}, *(value for _, value in self._lstms))
        return self._add(word, {"type": "sum_directions"}, self.value)

    def _pool(self, word: str, value: str) -> str:
        if word != "final":
            return self._add(word, {"type": word}, value)
        if not self._lstms or value != self._lstms[-1][1]:
            raise ValueError("final is of an LSTM's own output: it must stand right behind one")
        # The only direction ends with its last step.
        return self._add(word, {"type": "final" if self._bidirectional else "last"}, value)

    def give(self, output: str) -> None:
        """Offer the last value to callers under this name."""
        self.graph.outputs[output] = self.value

    def give_end(self) -> None:
        """Offer what the chain ends with, if no output is that."""
        outputs = self.graph.outputs
        if not outputs:
            self._states = self.value  # with a norm behind the LSTM, say
        elif self.value not in outputs.values():
            is_sigmoid = self.value.startswith("sigmoid") and "logits" in outputs
            self.give("probabilities" if is_sigmoid else self.value)

    def give_states(self) -> None:
        """Offer the LSTM's states, and vectors of each sequence that are made of them."""
        own = self.graph.outputs
        words = ["mean", "max"]
        if self._states == self._lstms[-1][1]:
            words.insert(0, "final")
        pooled = {word: self._pooled(word) for word in words}
        self.graph.outputs = {"states": self._states} | pooled | own

    def _pooled(self, word: str) -> str:
        """The pooling of the states that is there already, or a new one."""
        there = (layer for layer in self.graph.layers if layer["inputs"] == [self._states])
        name = next((layer["name"] for layer in there if layer["name"] == word), None)
        if name is None:
            name = self._pool(word, self._states)
            del self.graph.sources[name]  # it is none of the chain's
        return name

    def _input(self, name: str, entry: dict[str, int]) -> str:
        name = self._unique(name)
        self.graph.inputs[name] = entry
        return name

    def _add(self, name: str, entry: Mapping[str, Any], *reads: str) -> str:
        name = self._unique(name)
        self.graph.layers.append({"name": name, **entry, "inputs": list(reads)})
        self.graph.sources[name] = ""
        return name

    def _unique(self, name: str) -> str:
        taken = {*self.graph.inputs, *(layer["name"] for layer in self.graph.layers)}
        names = chain_of((name,), (f"{name[:50]}_{number}" for number in count(2)))
        return next(own for own in names if own not in taken)


def _entry(found: Found, embeds: bool) -> dict[str, Any]:
    """A module's entry in `config.json`, without its name and what it reads."""
    if embeds:
        return {"type": "embedding", "width": found.reads}
    if found.is_affine:
        return {"type": "linear", "width": found.gives, **found.fields}
    return {"type": found.kind, **found.fields}


def _identifier(name: str) -> str:
    """A name of the file as a layer may have it."""
    word = re.sub(r"[^A-Za-z0-9_]", "_", name)[:60]
    return word if re.match("[A-Za-z_]", word) else f"_{word}"
