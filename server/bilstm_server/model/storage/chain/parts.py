"""A checkpoint's modules by the part that they have in the chain, as flags and names tell it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..weights import some
from .found import Found
from .links import Said
from .selecting import exactly, under
from .words import EXPORT


@dataclass(frozen=True)
class Parts:
    """Modules by their part: `body` has the LSTMs, and all that may stand before or behind."""

    body: list[Found]
    lstms: list[Found]
    in_order: list[Found]  # LSTMs whose order was said
    heads: dict[str, list[Found]]  # by the prefix that was said
    embeddings: list[Found]  # that were said to be ones
    crf: Found | None
    left: list[Found]  # what can't be served


def partition(found: Sequence[Found], said: Said) -> Parts:
    """Sort the modules. Raises `ValueError` where a flag names none, or there is no LSTM."""
    lstms = _lstms(found, said)
    tables = [module for module in found if module.kind == "matrix"]
    embeddings = [
        exactly(tables, found, prefix, "--embedding-prefix") for prefix in said.embedding_prefixes
    ]
    taken = [*lstms, *embeddings]
    heads: dict[str, list[Found]] = {}
    for prefix in said.head_prefixes:
        own = under(found, prefix, "--head-prefix")
        heads[prefix] = [m for m in own if m not in taken and m.kind not in ("unknown", "unserved")]
        taken += heads[prefix]
    crfs = [module for module in found if module.kind == "crf"]
    if len(crfs) > 1:
        raise ValueError(f"holds several CRFs ({some(crfs)}), and one is served")
    body, left = [], []
    for module in found:
        if module in lstms or (module.kind in _BODY and module not in taken):
            body.append(module)
        elif module not in taken and module.kind != "crf":
            left.append(module)
    in_order = lstms if said.lstm_prefixes else []
    return Parts(body, lstms, in_order, heads, embeddings, crfs[0] if crfs else None, left)


_BODY = ("linear", "matrix", "layer_norm", "batch_norm")


def _lstms(found: Sequence[Found], said: Said) -> list[Found]:
    recurrences = [
        m for m in found if m.kind == "lstm" or (m.kind == "unserved" and m.is_recurrent)
    ]
    if said.lstm_prefixes:
        prefixes = said.lstm_prefixes
        chosen = [exactly(recurrences, found, prefix, "--lstm-prefix") for prefix in prefixes]
    else:
        chosen = recurrences
    if not chosen:
        names = [name for module in found for name in module.shapes]
        raise ValueError(
            f"no LSTM in it (no tensor is named weight_ih_l0); it has: {some(names)}; {EXPORT}"
        )
    if problem := next((module.problem for module in chosen if module.problem), ""):
        raise ValueError(problem)
    return chosen
