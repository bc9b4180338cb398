"""`--chain`: the whole chain in its owner's words: `words+features:3, lstm, mean, fc1, relu, fc2`.

    chain   link, link, …        each reads the one before
    link    NAME                 a module of the file
            WORD                 a pooling, an activation, or another of `WORDS`
            NAME:WIDTH           an input of so many floats at each step; first in the chain only
            part+part            several side by side: inputs, or poolings of the value before

A module's name wins over a word.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ....quoting import quoted
from ..weights import some
from . import words
from .found import Found
from .leftovers import check_left_out
from .links import POOLINGS, WORDS, Chain, Floats, Joined, Link, Module, Said, Word
from .selecting import common_prefix

_FLOATS = re.compile(r"([A-Za-z_][A-Za-z0-9_]*):([0-9]{1,9})")


def written_chain(found: Sequence[Found], said: Said) -> Chain:
    """The chain that `said.chain` says. Raises `ValueError` if it does not name every module once,
    or another flag says something of the chain, too."""
    others = [said.lstm_prefixes, said.head_prefixes, said.embedding_prefixes, said.pooling]
    if any([*others, said.per_step, said.head_activation, not said.head, not said.embedding]):
        raise ValueError(
            "--chain says all of the chain: pass no other flag that says something of it"
        )
    text = said.chain or ""
    parser = _Parser(found)
    links = [parser.link(link.strip(), is_first=not i) for i, link in enumerate(text.split(","))]
    if not any(module.kind == "lstm" for module in parser.used):
        raise ValueError("--chain must name an LSTM of the file")
    if left := [module for module in found if module not in parser.used]:
        has_head = any(
            isinstance(link, Module) and (link.found.is_affine or link.found.kind == "crf")
            for link in links[1:]
        )
        if not said.ignore_unused:
            raise ValueError(f"--chain leaves out {some(left)}; {words.unserved(left)}")
        if has_head:
            raise ValueError(words.other_logits(left))
        check_left_out(left, [module for module in parser.used if module.kind == "lstm"])
    return Chain(links)


class _Parser:
    def __init__(self, found: Sequence[Found]):
        prefix = common_prefix(found)
        self._modules = {str(module).removeprefix(prefix): module for module in found}
        self._modules |= {str(module): module for module in found}
        self.used: list[Found] = []

    def link(self, text: str, *, is_first: bool) -> Link:
        parts = [self._part(part.strip(), is_first=is_first) for part in text.split("+")]
        if len(parts) == 1:
            return parts[0]
        if not is_first and any(not isinstance(p, Word) or p.word not in POOLINGS for p in parts):
            raise ValueError(
                f"--chain: {quoted(text)} joins other things than poolings; inputs are joined at "
                "the beginning"
            )
        return Joined(tuple(parts))

    def _part(self, text: str, *, is_first: bool) -> Module | Word | Floats:
        if text in self._modules:
            module = self._modules[text]
            if module in self.used:
                raise ValueError(f"--chain: {text} is in it twice")
            if module.problem or module.kind == "unknown":
                raise ValueError(words.unserved([module]))
            self.used.append(module)
            return Module(module, embeds=is_first and module.kind == "matrix")
        if text in WORDS and not is_first:
            return Word(text)
        if is_first and (floats := _FLOATS.fullmatch(text)):
            return Floats(floats[1], int(floats[2]))
        raise ValueError(
            f"--chain: {quoted(text)} is no module of the file and no word of it; it has: "
            f"{some(self._modules)}; words: {', '.join(sorted(WORDS))}"
        )
