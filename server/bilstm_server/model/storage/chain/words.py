"""What is said of a checkpoint whose chain names and shapes leave open, or do not make at all.

Sentences name modules and tensors as the file does, and the flag that answers.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from ..weights import some
from .found import Found
from .gaps import gaps
from .links import ACTIVATIONS, POOLINGS, Said

EXPORT = "bilstm-server export takes such a model from its module"


def unserved(left: Sequence[Found], around: tuple[str, str] | None = None) -> str:
    """Tensors of which no layer can be made, and what stands around the first."""
    if problem := next((module.problem for module in left if module.problem), ""):
        place = f" (it stands between {around[0]} and {around[1]})" if around else ""
        return f"{problem}{place}; {EXPORT}"
    if recurrent := [module for module in left if module.is_recurrent]:
        return (
            f"holds more recurrences ({some(recurrent)}): name all that are in the chain with "
            "--lstm-prefix, in their order; take those that are in none out of the file"
        )
    names = [name for module in left for name in module.shapes]
    return (
        f"{len(names)} more tensor{'s' * (len(names) > 1)} would be left out, and the results "
        f"might differ: {some(names)}; {EXPORT}, and --no-head --ignore-unused serves the LSTM's "
        "states alone"
    )


def other_logits(left: Sequence[Found]) -> str:
    """Tensors that can't be left out because there is a head."""
    names = [name for module in left for name in module.shapes]
    return (
        f"--ignore-unused would leave out {some(names)}, and such a model would give other logits; "
        f"pass --no-head, too, to serve the LSTM's states alone; {EXPORT}"
    )


def what_the_head_reads(heads: Sequence[str], lstm: Found) -> str:
    """The choice of a pooling, in the words of a module with `batch_first`."""
    choices = dict(POOLINGS)
    if lstm.fields["bidirectional"]:
        choices["last"] += ", of the backward direction too"
    else:
        choices["last"] += ", which is h_n[-1]"
        del choices["final"]
    named = ", ".join(f"{name} ({meaning})" for name, meaning in choices.items())
    return (
        f"no tensor tells what the head ({some(heads)}) reads; say it with --pooling: {named}; or "
        f"with --per-step, where it reads each step; if it reads something else, {EXPORT}"
    )


def activations(modules: Sequence[Found], *, in_head: bool) -> str:
    """The choice of what stands behind a linear layer that is not the last one."""
    how = "say it with --head-activation" if in_head else "say it with --chain"
    return (
        f"no tensor tells which activation stands behind {some(modules)}; {how}: "
        f"none, {', '.join(ACTIVATIONS)}"
    )


def several_orders(one: Sequence[Found], other: Sequence[Found]) -> str:
    """Two orders that fit, and all modules that may change places."""
    moved = [a for a, b in zip(one, other, strict=True) if a is not b]
    widths = {(module.reads, module.gives) for module in moved}
    alike = [module for module in one if (module.reads, module.gives) in widths]
    return f"no tensor tells the order of {some(alike)}"


def unfit(modules: Sequence[Found], placed: Sequence[Found]) -> str:
    """Why the modules do not make a chain, by the first that fits nowhere."""
    left = [module for module in modules if module not in placed]
    if not left:
        return f"the numbers in the names of its layers contradict their widths; {EXPORT}"
    lstm = next((m for m in reversed(placed) if m.kind == "lstm"), None)
    width = placed[-1].gives if placed else 0
    same = [m for m in left if m.is_affine and m.reads == left[0].reads]
    if lstm is not None and len(left) == 1 and left[0].is_affine and placed[-1] is lstm:
        module = left[0]
        return (
            f"{module.weight}, expected {[module.gives, width]}{_perhaps_reads(module.reads, lstm)}"
        )
    branching = [m for m in placed if m.is_affine and same and m.reads == same[0].reads]
    if branching or len(same) > 1:
        names = [*branching, *same]
        flags = " ".join(f"--head-prefix {module}." for module in names)
        return (
            f"several layers read the same {same[0].reads} numbers ({some(names)}): if each is a "
            f"head of its own, say {flags}; if one gives weights of an attention, {EXPORT}"
        )
    return (
        f"no place in the chain fits {some(left)}; of the others it is "
        f"{' -> '.join(map(str, placed))}, and nothing gives the {left[0].reads} numbers that "
        f"{left[0]} reads, or reads what it gives; {EXPORT}"
    )


def _perhaps_reads(width: int, lstm: Found) -> str:
    """What a head of another width may read instead of one vector for each sequence."""
    fields = lstm.fields
    directions = 2 if fields["bidirectional"] else 1
    state = lstm.gives // directions
    if directions == 2 and width == state:
        what = "one direction alone, or the sum of both (sum_directions in --chain)"
    elif width == fields["num_layers"] * directions * state:
        what = "h_n of all layers"
    elif width in (2 * lstm.gives, 3 * lstm.gives):
        what = "several vectors joined (max+mean in --chain)"
    else:
        return f"; {EXPORT}"
    return f": it may read {what}; {EXPORT}"


def unfit_embeddings(embeddings: Sequence[Found], reader: Found) -> str:
    """Embeddings that together give another number of floats than the LSTM reads."""
    width = sum(module.reads for module in embeddings)
    if width < reader.reads:
        return (
            f"{reader} reads {reader.reads} numbers, and {some(embeddings)} gives {width}: no "
            "tensor tells what the others are"
        )
    first = embeddings[0]
    return f"{first.weight}, expected {[first.gives, reader.reads]}"


def unfit_crf(crf: Found, heads: Collection[str]) -> str:
    """A CRF that does not read what the chain ends with."""
    if heads:
        return f"no tensor tells which of the heads {crf} reads; {EXPORT}"
    return f"{crf} has {crf.reads} tags, which is not what the layer before it gives; {EXPORT}"


def embedding_or_linear(either: Sequence[Found]) -> str:
    """Weights alone that both fit."""
    return (
        f"no tensor tells whether {some(either)} is an embedding or a linear layer without bias; "
        "say it with --embedding-prefix, or with --chain"
    )


def connections(order: Sequence[Found], said: Said) -> list[str]:
    """The ways in which several LSTMs may be connected; none if there is one only, or if their
    owner said that each reads the one before."""
    lstms = [module for module in order if module.kind == "lstm"]
    ways = []
    if any(module.reads == module.gives for module in lstms):
        ways.append("what each reads is added to what it gives (residual)")
    if order and order[-1] is lstms[-1]:
        ways.append("the outputs of all are joined (joined, behind the last one)")
    if any(re.search("decod", module.name, re.IGNORECASE) for module in lstms):
        ways.append(f"a decoder reads something else ({EXPORT})")
    if len(lstms) < 2 or said.lstm_prefixes or not ways:
        return []
    return ["each reads the one before", *ways]


def proposal(
    embeddings: Sequence[Found], order: Sequence[Found], crf: Found | None, said: Said
) -> str:
    """The whole chain as --chain takes it, with words to replace where no tensor tells."""
    width = sum(module.reads for module in embeddings)
    parts = [*map(str, embeddings)]
    if embeddings and order and width < order[0].reads:
        parts.append(f"features:{order[0].reads - width}")
    links = ["+".join(parts)] if parts else []
    last = max((i for i, module in enumerate(order) if module.kind == "lstm"), default=0)
    open_gaps = {str(gap.linear): gap for gap in gaps(order, True)}
    for i, module in enumerate(order):
        links.append(str(module))
        if i == last and connections(order, said):
            links.append("CONNECTION")
        is_pooled = any(m.is_affine for m in order[last:]) and not (said.per_step or crf)
        if i == last and is_pooled:
            links.append(said.pooling or "POOLING")
        if gap := open_gaps.get(str(module)):
            is_said = said.head_activation is not None and i > last and gap.behind
            links.append(str(said.head_activation) if is_said else "ACTIVATION")
    links = [link for link in [*links, *([str(crf)] if crf else [])] if link != "none"]
    return f"--chain {', '.join(links)!r} (with your words for those in capitals, or without them)"
