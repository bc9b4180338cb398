"""Weights that a checkpoint holds in pieces, as modules compute them from these when they serve.

    weight norm        W = v · g / |v|, the norm over all dimensions that g has not
    spectral norm      W = V / uᵀ V v, V as a matrix with its first dimension as rows
    pruning            W = V · mask
    CRF constraints    W = V · mask - 10000 (1 - mask)

With the names of `torch.nn.utils`, of `torch.nn.utils.parametrizations`, and for the last of
AllenNLP's CRF.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

_PARAMETRIZED = re.compile(r"(.*\.)?parametrizations\.(\w+)\.(.+)")
_IMPOSSIBLE = -10_000.0  # the score of a transition that a mask forbids
_SUFFIXED = re.compile(r"(.*?(?:weight|bias)\w*?)_(g|v|u|orig|mask)")


def fold(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors with each weight in place of its pieces, and the names of these weights.

    Raises `ValueError` for pieces whose weight no tensor tells.
    """
    pieces: dict[str, dict[str, str]] = {}  # of each weight: the piece -> its name in the file
    for name in tensors:
        if piece := _piece(name):
            pieces.setdefault(piece[0], {})[piece[1]] = name
    owners: dict[str, str] = {}
    for weight, own in pieces.items():
        if _rule(own) is not None:
            owners |= dict.fromkeys(own.values(), weight)
        elif any(_PARAMETRIZED.fullmatch(name) for name in own.values()):
            raise ValueError(
                f"{weight} is made by a parametrization that is not known ({', '.join(own)}); save "
                "the state_dict after torch.nn.utils.parametrize.remove_parametrizations"
            )
    folded: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name not in owners:
            folded[name] = tensor
        elif owners[name] not in folded:
            weight = owners[name]
            folded[weight] = _whole(weight, {p: tensors[n] for p, n in pieces[weight].items()})
    constrained = list(_constrain(folded))
    return folded, [*dict.fromkeys(owners.values()), *constrained]


def _piece(name: str) -> tuple[str, str] | None:
    """The weight that a tensor is a piece of, and which."""
    if found := _PARAMETRIZED.fullmatch(name):
        return (found[1] or "") + found[2], found[3]
    if found := _SUFFIXED.fullmatch(name):
        return found[1], found[2]
    return None


def _whole(weight: str, pieces: Mapping[str, Tensor]) -> Tensor:
    rule = _rule(pieces)
    assert rule is not None
    try:
        names, make = rule
        # In float64, or the last digit would be another than the module's.
        made = make(*(pieces[name].double() for name in names))
    except (RuntimeError, IndexError) as error:
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in pieces.items())
        raise ValueError(f"{weight}: its pieces do not fit each other: {shapes}") from error
    return made.to(pieces[names[0]].dtype)


def _constrain(tensors: dict[str, Tensor]) -> Iterator[str]:
    """Put the transitions that a CRF's mask forbids, [from, to] with START and STOP behind the C
    tags, into its scores. Gives the names of those that were changed.
    """
    for name in [name for name in tensors if name.rpartition(".")[2] == "_constraint_mask"]:
        prefix = name.removesuffix("_constraint_mask")
        transitions = tensors.get(f"{prefix}transitions")
        mask = tensors[name].double()
        if transitions is None or [*mask.shape] != [size + 2 for size in transitions.shape]:
            continue
        tags = len(transitions)
        for parameter, allowed in (
            ("transitions", mask[:tags, :tags]),
            ("start_transitions", mask[tags, :tags]),
            ("end_transitions", mask[:tags, tags + 1]),
        ):
            # Where training had none, starts and ends cost nothing.
            own = tensors.get(prefix + parameter, torch.zeros(allowed.shape)).double()
            if own.shape != allowed.shape:
                raise ValueError(
                    f"{prefix}{parameter} is {list(own.shape)}, which {name} is not for"
                )
            scores = own * allowed + _IMPOSSIBLE * (1 - allowed)
            tensors[prefix + parameter] = scores.to(transitions.dtype)
            yield prefix + parameter
        del tensors[name]


def _weight_norm(v: Tensor, g: Tensor) -> Tensor:
    if g.dim() not in (0, v.dim()):
        raise RuntimeError
    others = [dim for dim, size in enumerate(g.shape) if size == 1] or None
    norm = torch.linalg.vector_norm(v, dim=others, keepdim=g.dim() > 0)
    if g.shape != norm.shape:
        raise RuntimeError
    weight: Tensor = v * (g / norm)
    return weight


def _spectral_norm(v: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return v / torch.dot(left, v.flatten(1) @ right)


def _pruned(v: Tensor, mask: Tensor) -> Tensor:
    if v.shape != mask.shape:
        raise RuntimeError
    return v * mask


Rule = tuple[tuple[str, ...], Callable[..., Tensor]]

_RULES: tuple[Rule, ...] = (
    (("v", "g"), _weight_norm),
    (("original1", "original0"), _weight_norm),
    (("orig", "u", "v"), _spectral_norm),
    (("original", "0._u", "0._v"), _spectral_norm),
    (("orig", "mask"), _pruned),
)


def _rule(pieces: Mapping[str, object]) -> Rule | None:
    """How the weight is made of these pieces, all of them."""
    return next((rule for rule in _RULES if set(rule[0]) == pieces.keys()), None)
