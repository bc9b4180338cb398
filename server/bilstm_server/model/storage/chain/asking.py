"""Finds the chain of a checkpoint's modules, and asks for what names and shapes leave open.

Nothing is guessed: where two chains fit, and where no tensor tells what stands between two layers,
a `ValueError` says what there is to choose from, and by which flag.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..weights import some
from . import words
from .arranging import Arranged, arrange, arrange_body, neighbours
from .found import Found
from .gaps import Gap, gaps, in_one_sequential
from .leftovers import check_left_out
from .links import Chain, Link, Module, Said, Word
from .parts import Parts, partition

Heads = dict[str, list[Found]]


def find_chain(found: Sequence[Found], said: Said) -> Chain:
    """The only chain that fits all modules, with what the owner says of it. Raises `ValueError`."""
    parts = partition(found, said)
    if not said.head:
        return _without_head(parts, said)
    _check_left(parts, said)
    arranged, heads = arrange(parts, said)
    body, tail = arranged.split()
    if parts.left:
        if tail or heads or parts.crf:
            raise ValueError(words.other_logits(parts.left))
        check_left_out(parts.left, parts.lstms, is_embedded=bool(arranged.embeddings))
    if not heads and not any(module.is_affine for module in tail):
        _check_nothing_said_of_a_head(said)
        asked = _asked_of_body(arranged, said)
    else:
        asked = [
            *_asked_of_body(arranged, said),
            *_doubts([*tail, *(module for head in heads.values() for module in head)]),
            *_asked_of_pooling(arranged, heads, parts.crf, said),
            *_asked_of_activations(_all_gaps(tail, heads), said),
        ]
    _check_answered(asked, arranged, parts.crf, said)
    links = [*_links(body, arranged, said), *_pooled(said), *_activated(tail, not heads, said)]
    if parts.crf:
        if heads or parts.crf.reads != arranged.order[-1].gives:
            raise ValueError(words.unfit_crf(parts.crf, heads))
        links.append(Module(parts.crf))
    return Chain(links, {name: _activated(head, True, said) for name, head in heads.items()})


def _without_head(parts: Parts, said: Said) -> Chain:
    _check_nothing_said_of_a_head(said)
    _check_left(parts, said)
    try:
        arranged, others = arrange_body(parts, said)
    except ValueError:
        check_left_out(parts.left, parts.lstms)  # which is perhaps why the others fit nowhere
        raise
    check_left_out([*parts.left, *others], parts.lstms, is_embedded=bool(arranged.embeddings))
    _check_answered(_asked_of_body(arranged, said), arranged, None, said)
    return Chain(_links(arranged.order, arranged, said))


def _check_left(parts: Parts, said: Said) -> None:
    """What can't be served is refused, and where it stands is said if widths tell it."""
    if parts.left and not said.ignore_unused:
        raise ValueError(words.unserved(parts.left, neighbours(parts)))


def _check_nothing_said_of_a_head(said: Said) -> None:
    """What is said of a head that is not there is not passed over."""
    flags = {
        f"--pooling {said.pooling}": said.pooling,
        "--per-step": said.per_step,
        f"--head-activation {said.head_activation}": said.head_activation,
    }
    if given := next((flag for flag, value in flags.items() if value), ""):
        raise ValueError(f"{given}, but no head: no linear layer stands behind the LSTM")


def _check_answered(
    asked: Sequence[str], arranged: Arranged, crf: Found | None, said: Said
) -> None:
    if not asked:
        return
    problem = "; ".join(asked)
    if any("--chain" in question for question in asked):
        problem += f": {words.proposal(arranged.embeddings, arranged.order, crf, said)}"
    raise ValueError(problem)


def _doubts(modules: Sequence[Found]) -> list[str]:
    return [f"{m.doubt}; where it does, say so with --chain" for m in modules if m.doubt]


def _asked_of_body(arranged: Arranged, said: Said) -> list[str]:
    """What is open of all up to the last LSTM."""
    body, _ = arranged.split()
    asked = _doubts(body)
    if len(arranged.embeddings) > 1 and said.embedding:
        names = some(arranged.embeddings)
        asked.append(f"no tensor tells in which order {names} are joined; say it with --chain")
    if affine := [module for module in body if module.is_affine]:
        asked.append(words.activations(affine, in_head=False))
    if ways := words.connections(arranged.order, said):
        asked.append(
            f"no tensor tells how {some(m for m in body if m.kind == 'lstm')} are connected: "
            f"{', or '.join(ways)}; say it with --lstm-prefix for each, in order, if each reads "
            "the one before, or with --chain"
        )
    return asked


def _asked_of_pooling(arranged: Arranged, heads: Heads, crf: Found | None, said: Said) -> list[str]:
    """What is open of the values that the head reads."""
    if said.pooling and (said.per_step or crf):
        reads = "the CRF reads" if crf else "--per-step says"
        raise ValueError(
            f"--pooling {said.pooling} gives one row for a sequence, and {reads} one for each step"
        )
    body, tail = arranged.split()
    first = next((i for i, module in enumerate(tail) if module.is_affine), len(tail))
    if not (said.pooling or said.per_step or crf):
        names = [f"{module}." for module in tail[first : first + 1]] or list(heads)
        return [words.what_the_head_reads(names, body[-1])]
    norms = tail[:first]
    in_head = first < len(tail) and all(in_one_sequential(m, tail[first]) for m in norms)
    if norms and not in_head and said.pooling in ("mean", "max", "sum"):
        return [
            f"no tensor tells whether {some(norms)} stands before the pooling or behind it; "
            "say it with --chain"
        ]
    return []


def _all_gaps(tail: Sequence[Found], heads: Heads) -> list[Gap]:
    return [*gaps(tail, not heads), *(gap for head in heads.values() for gap in gaps(head, True))]


def _asked_of_activations(found: Sequence[Gap], said: Said) -> list[str]:
    if said.head_activation == "none":
        return []
    if not found:
        _check_between(said)
        return []
    if said.head_activation is None:
        return [words.activations([gap.linear for gap in found], in_head=True)]
    unplaced = [module for gap in found if gap.behind is None for module in gap.norms]
    if not unplaced:
        return []
    return [
        f"no tensor tells whether {said.head_activation} stands before {some(unplaced)} or "
        "behind it; say it with --chain"
    ]


def _check_between(said: Said) -> None:
    """An activation that was said and stands nowhere is not passed over."""
    if said.head_activation:
        raise ValueError(
            f"--head-activation {said.head_activation} stands between the linear layers of a head, "
            "and there is one; before it, or behind it, --chain says"
        )


def _links(body: Sequence[Found], arranged: Arranged, said: Said) -> list[Link]:
    embeddings = arranged.embeddings if said.embedding else []
    if not said.embedding and not arranged.embeddings:
        raise ValueError("--no-embedding, but no embedding in it")
    return [*(Module(m, embeds=True) for m in embeddings), *(Module(m) for m in body)]


def _pooled(said: Said) -> list[Link]:
    return [Word(said.pooling)] if said.pooling else []


def _activated(modules: Sequence[Found], is_last: bool, said: Said) -> list[Link]:
    """The layers of a head, with the activation that was said in each gap."""
    behind = [gap.behind for gap in gaps(modules, is_last)]
    links: list[Link] = []
    for module in modules:
        links.append(Module(module))
        if said.head_activation not in (None, "none") and module in behind:
            links.append(Word(said.head_activation))
    return links
