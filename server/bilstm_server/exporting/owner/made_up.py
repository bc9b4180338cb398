"""An example for a module whose owner gave none: made of the sizes that its layers read."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, permutations, product

import torch
from torch import Tensor, nn

from ..raised import described
from ..recording import evaluating
from ..refusals import ExportError

_STEPS = (97, 13)  # the second for modules with an end to their positions
_MOST_TRIALS = 256
_MOST_INPUTS = 4

_LENGTHS = ("len",)
_MASKS = ("mask", "pad")
_PADDING = ("pad",)  # a mask that is true where nothing is


@dataclass(frozen=True)
class Made:
    """Arguments for one sequence, and what to say of them."""

    arguments: tuple[Tensor, ...]
    words: str


def make_example(module: nn.Module) -> Made:
    """Make up arguments that the module runs with: ids below an embedding's number, floats as wide
    as an LSTM, a linear layer or a convolution reads; lengths and masks are told by their names.

    Raises `ExportError`, which asks for an example, where none of these runs.
    """
    kind = type(module).__name__
    names = [
        name
        for name, parameter in inspect.signature(module.forward).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    data = [name for name in names if not _is(name, _LENGTHS + _MASKS)]
    if not 1 <= len(data) <= _MOST_INPUTS:
        raise ExportError(f"no example can be made up for {kind}.forward; give one with --example")
    first: BaseException | None = None
    # What a wrong guess leads torch to warn of is nobody's matter.
    with evaluating(module), torch.no_grad(), warnings.catch_warnings(action="ignore"):
        for made in islice(_trials(module, names, data), _MOST_TRIALS):
            try:
                module(*(argument.clone() for argument in made.arguments))
            except Exception as error:  # of the owner's code: of any kind
                first = first or error
            else:
                return made
    failed = f"; with the likeliest it raised {described(first)}" if first else ""
    raise ExportError(
        f"no example can be made up that {kind}.forward({', '.join(names)}) takes: give one with "
        f"--example, from one sequence of your own{failed}"
    )


@dataclass(frozen=True)
class _Form:
    """What an argument may be for each step: ids below a number, or so many floats."""

    ids: int = 0
    padding_id: int | None = None
    width: int = 0

    @property
    def words(self) -> str:
        return f"ids below {self.ids}" if self.ids else f"{self.width} floats a step"

    def steps(self, count: int, generator: torch.Generator) -> Tensor:
        """[T] of ids, without those that may mean padding, or [T, width]."""
        if not self.ids:
            return torch.randn(count, self.width, generator=generator)
        every = [number for number in range(self.ids) if number not in (0, self.padding_id)]
        every = every or [0]
        chosen = torch.randint(len(every), (count,), generator=generator)
        return torch.tensor(every)[chosen]


def _trials(module: nn.Module, names: Sequence[str], data: Sequence[str]) -> Iterator[Made]:
    forms, several = list(dict.fromkeys(_forms(module))), len(data)
    besides = [name for name in names if name not in data]
    readings = _BESIDES if any(not _is(name, _LENGTHS) for name in besides) else _BESIDES[:1]
    for count, chosen, layout, reading in product(
        _STEPS,
        [*permutations(forms, several), *product(forms, repeat=several)],
        _LAYOUTS,
        readings,
    ):
        generator = torch.Generator().manual_seed(0)
        steps = [layout(form.steps(count, generator)) for form in chosen]
        made = dict(zip(data, steps, strict=True))
        made |= {name: reading(name, steps[0], count) for name in besides}
        words = [f"{name} ({form.words})" for name, form in zip(data, chosen, strict=True)]
        yield Made(
            tuple(made[name] for name in names),
            f"an example was made up, of {count} steps: {', '.join(words)}",
        )


def _forms(module: nn.Module) -> Iterator[_Form]:
    """What the module's layers read, in the order in which it has them; then what is left of that
    beside embeddings."""
    widths: list[int] = []
    embedded: list[int] = []
    for part in module.modules():
        if isinstance(part, nn.Embedding):
            embedded.append(part.embedding_dim)
            yield _Form(ids=part.num_embeddings, padding_id=part.padding_idx)
            continue
        for size in ("input_size", "in_features", "in_channels"):
            if isinstance(width := getattr(part, size, None), int):
                widths.append(width)
                yield _Form(width=width)
    for width in widths:
        for taken in (sum(embedded), *embedded):
            if 0 < taken < width:
                yield _Form(width=width - taken)


def _batch_first(steps: Tensor) -> Tensor:
    return steps.unsqueeze(0)


def _steps_first(steps: Tensor) -> Tensor:
    return steps.unsqueeze(1)


def _channels_first(steps: Tensor) -> Tensor:
    return steps.t().unsqueeze(0) if steps.dim() == 2 else steps.unsqueeze(0)


def _alone(steps: Tensor) -> Tensor:
    return steps


_LAYOUTS = (_batch_first, _steps_first, _channels_first, _alone)


def _lengths(name: str, data: Tensor, count: int) -> Tensor:
    """Lengths [1], whatever the name."""
    return torch.tensor([count])


def _by_name(name: str, data: Tensor, count: int) -> Tensor:
    """Lengths, or a mask of the sequences and steps that an input has: of what is padding where the
    name says so, else of what is there."""
    if _is(name, _LENGTHS):
        return _lengths(name, data, count)
    shape = [size for size in data.shape[:2] if size in (1, count)][: data.dim()]
    return torch.full(shape, not _is(name, _PADDING))


def _against_name(name: str, data: Tensor, count: int) -> Tensor:
    """Lengths, or a mask the other way round."""
    made = _by_name(name, data, count)
    return ~made if made.dtype == torch.bool else made


_BESIDES = (_by_name, _against_name, _lengths)


def _is(name: str, words: Sequence[str]) -> bool:
    return any(word in name.lower() for word in words)
