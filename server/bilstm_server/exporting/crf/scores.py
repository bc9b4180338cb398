"""The scores that a module's parameters may mean, and the best path by each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Array = NDArray[np.float64]

_FORBIDDEN = -1000.0  # what can't follow has such a score or a lower one


@dataclass(frozen=True)
class Scores:
    """Scores of transitions [from, to], and of each tag as the first and as the last one."""

    transitions: Array  # [C, C]
    start: Array | None = None  # [C]
    end: Array | None = None  # [C]

    def best_path(self, emissions: Array) -> tuple[list[int], float]:
        """The tags [T] of the best path through emissions [T, C], and its score."""
        score = emissions[0] + (0 if self.start is None else self.start)
        origins = []
        for emission in emissions[1:]:
            arriving = score[:, None] + self.transitions
            origins.append(arriving.argmax(axis=0))
            score = arriving.max(axis=0) + emission
        score = score + (0 if self.end is None else self.end)
        path = [int(score.argmax())]
        for origin in reversed(origins):
            path.append(int(origin[path[-1]]))
        return path[::-1], float(score.max())


def has_scores(module: nn.Module) -> bool:
    """Whether the module owns a square matrix that is named after transitions."""
    return any(_is_matrix(name, tensor) for name, tensor in _tensors(module).items())


def scores_of(module: nn.Module, tags: int) -> Iterator[Scores]:
    """What the module's parameters may mean for so many tags, the likelier first."""
    tensors = _tensors(module)
    own = {name: tensor.detach().cpu().double().numpy() for name, tensor in tensors.items()}
    for matrix in (own[name] for name, tensor in tensors.items() if _is_matrix(name, tensor)):
        for transitions in (matrix, matrix.T):
            if len(matrix) == tags:
                yield from _with_vectors(own, transitions, tags)
                yield from _with_tags(transitions)
            elif len(matrix) > tags:
                yield from _with_outer_tags(transitions, tags)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """What the module itself owns, of its own attributes too."""
    found = dict(module.named_parameters(recurse=False)) | dict(module.named_buffers(recurse=False))
    found |= {name: value for name, value in vars(module).items() if isinstance(value, Tensor)}
    return {name: tensor for name, tensor in found.items() if isinstance(tensor, Tensor)}


def _is_matrix(name: str, tensor: Tensor) -> bool:
    is_square = tensor.dim() == 2 and tensor.shape[0] == tensor.shape[1] > 1
    return is_square and tensor.is_floating_point() and "trans" in name.lower()


def _with_vectors(own: dict[str, Array], transitions: Array, tags: int) -> Iterator[Scores]:
    """With start and end scores of their own, and AllenNLP's matrix of what is allowed."""
    vectors = {name.lower(): array for name, array in own.items() if array.shape == (tags,)}
    start, end = _named(vectors, "start", "begin"), _named(vectors, "end", "stop")
    allowed = [array for array in own.values() if array.shape == (tags + 2, tags + 2)]
    for mask in allowed:
        yield Scores(
            _only(transitions, mask[:tags, :tags]),
            _only(np.zeros(tags) if start is None else start, mask[tags, :tags]),
            _only(np.zeros(tags) if end is None else end, mask[:tags, tags + 1]),
        )
    yield Scores(transitions, start, end)
    if start is not None or end is not None:
        yield Scores(transitions)


def _named(vectors: dict[str, Array], *words: str) -> Array | None:
    return next((v for name, v in vectors.items() if any(word in name for word in words)), None)


def _only(scores: Array, allowed: Array) -> Array:
    return scores * allowed - 10000.0 * (1 - allowed)


def _with_tags(transitions: Array) -> Iterator[Scores]:
    """With tags among the others that stand for the start and the end."""
    tags = len(transitions)
    starts = np.flatnonzero((transitions <= _FORBIDDEN).all(axis=0)).tolist()
    stops = np.flatnonzero((transitions <= _FORBIDDEN).all(axis=1)).tolist()
    pairs = [(start, stop) for start in starts for stop in stops if start != stop]
    pairs += [(tags - 2, tags - 1), (tags - 1, tags - 2), (0, tags - 1), (0, 1)]
    for start, stop in dict.fromkeys(pairs):
        yield Scores(transitions, transitions[start], transitions[:, stop])
    for start in starts:
        yield Scores(transitions, transitions[start])
    for stop in stops:
        yield Scores(transitions, None, transitions[:, stop])


def _with_outer_tags(transitions: Array, tags: int) -> Iterator[Scores]:
    """With rows and columns for the start and the end that are no tags of the emissions."""
    size = len(transitions)
    if size - tags == 2:
        inner = transitions[:tags, :tags]
        yield Scores(inner, transitions[tags, :tags], transitions[:tags, tags + 1])
        yield Scores(inner, transitions[tags + 1, :tags], transitions[:tags, tags])
        inner = transitions[2:, 2:]
        yield Scores(inner, transitions[0, 2:], transitions[2:, 1])


def tensors_of(scores: Scores) -> dict[str, Tensor]:
    """The parameters of the layer."""
    named = {
        "transitions": scores.transitions,
        "start_transitions": scores.start,
        "end_transitions": scores.end,
    }
    return {
        name: torch.from_numpy(np.ascontiguousarray(array)).float()
        for name, array in named.items()
        if array is not None
    }
