"""Finds the axis of steps, by calling the module with sequences of other lengths."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..raised import described
from ..refusals import ExportError, Refusal
from .calls import Caller, ExampleCall
from .roles import guesses
from .structure import mapped

LENGTHS = ((11, 13, 17), (37, 41, 47), (113, 127, 131), (1009, 1021, 1031))
"""Numbers of steps to record: of the first three that the module takes."""

_FEWEST_STEPS = 7  # of each LSTM, which strides before it have left

Run = Callable[[Any], Any]


def read_example(
    module: nn.Module, example: ExampleCall, lengths: Any, run: Run
) -> tuple[Caller, tuple[int, ...]]:
    """How the module is called for one sequence, and numbers of steps that it takes."""
    first = _observe(lambda: run(example.with_tree(_copied(example.tree))))
    if isinstance(first, Exception):
        raise ExportError(
            f"example: {type(module).__name__} fails on it: {described(first)}"
        ) from first
    sizes = [steps for _, steps in first]
    batches = [batch for batch, _ in first] + [1]
    runnable: tuple[Caller, tuple[int, ...]] | None = None
    problem: Exception | None = None
    for batch in dict.fromkeys(batches):
        for guess in guesses(example.tree, lengths, sizes, batch):
            caller = Caller(example, guess)
            for several in LENGTHS:
                seen = [_tried(caller, run, steps) for steps in several[:2]]
                failed = next((s for s in seen if isinstance(s, Exception)), None)
                if failed is not None:
                    problem = failed
                elif _are_lone(seen):
                    return caller, several
                else:
                    runnable = runnable or (caller, several)
    if runnable is not None:
        return runnable
    raise ExportError(
        "example: give one of several steps, of which the module takes any number"
        f"{f'; {described(problem)}' if problem else ''}"
    )


def _tried(caller: Caller, run: Run, steps: int) -> list[tuple[int, int]] | Exception:
    return _observe(lambda: run(caller.call(caller.sample(steps, seed=steps)).bound))


def _are_lone(seen: list[Any]) -> bool:
    """Whether the LSTMs had one sequence each time, of some steps and of another number."""
    firsts = [calls[0] for calls in seen if calls]
    return (
        len(firsts) == len(seen)
        and all(batch == 1 for batch, _ in firsts)
        and len({steps for _, steps in firsts}) == len(firsts)
        and all(steps >= _FEWEST_STEPS for calls in seen for _, steps in calls)
    )


def _copied(tree: Any) -> Any:
    return mapped(tree, lambda _, leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf)


def _observe(call: Callable[[], Any]) -> list[tuple[int, int]] | Exception:
    """The sequences and steps that each LSTM read, or what went wrong."""
    try:
        with _watching() as seen, torch.no_grad():
            call()
    except Refusal:
        raise
    except Exception as error:  # of the owner's own code: of any kind
        return error
    return seen


@contextmanager
def _watching() -> Iterator[list[tuple[int, int]]]:
    seen: list[tuple[int, int]] = []
    with _Watch(seen):
        yield seen


class _Watch(TorchFunctionMode):
    def __init__(self, seen: list[tuple[int, int]]):
        super().__init__()
        self._seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
            if isinstance(args[1], Tensor) and len(args) == 9 and args[1].dim() == 1:
                self._seen.append((int(args[1][0]), len(args[1])))
            else:
                first, second = args[0].shape[:2]
                self._seen.append((first, second) if args[-1] else (second, first))
        return func(*args, **(kwargs or {}))
