"""Runs a module and records what its operations do with the numbers of its inputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from . import operations
from .elements import Elements
from .operations.from_numpy import arrays_return
from .operations.own_lstm import own_lstms
from .refusals import Refusal, is_narrow, narrow_words
from .symbols import SymbolicFloat, SymbolicInt
from .trace import HANDLERS, Call, Trace

# They change the form of a tensor, and none of its numbers.
_FORMS = {"squeeze_", "unsqueeze_", "t_", "transpose_", "detach_", "as_strided_", "swapaxes_"}


@contextmanager
def recording(trace: Trace) -> Iterator[None]:
    """Record the operations of torch's within, until it ends or `paused`."""
    with (
        torch.no_grad(),
        _Operations(trace),
        _Functions(trace),
        own_lstms(trace),
        arrays_return(),
    ):
        yield


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees what every function of torch's is made of: some hundred operations."""

    def __init__(self, trace: Trace):
        super().__init__()  # type: ignore[no-untyped-call]
        self._trace = trace

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Not: it takes seconds to import, and nothing compiles here."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._trace.is_paused:
            return func(*args, **kwargs)
        with self._trace.paused():
            return self._run(func, args, kwargs)

    def _run(self, func: Any, args: Any, kwargs: Any) -> Any:
        trace = self._trace
        random = torch.Tag.nondeterministic_seeded in func.tags
        depends = any(trace.depends(leaf) for leaf in tree_iter((args, kwargs)))
        if not depends and not random:
            return func(*args, **kwargs)
        arguments = _bound(func, args, kwargs)
        random = random and arguments.get("training") is not False  # as rrelu in eval
        written = _written(func, arguments)
        for name, tensor in written.items():
            arguments[name] = _copy(trace, tensor)
        given = {t.untyped_storage()._cdata for t in tree_iter(arguments) if isinstance(t, Tensor)}
        result = func(*args, **kwargs)
        _refuse_lists(trace, func, arguments)
        name = func._schema.name.split("::")[-1]
        if name in _FORMS:
            return result
        place = trace.places.here()
        trace.count(place)
        made = list(result if isinstance(result, tuple | list) else [result])
        if written and all(returned.alias_info is None for returned in func._schema.returns):
            written = {}  # beside what it returns: noise, or the numbers of a batch
        results = list(written.values()) or made
        call = Call(
            trace, name.removesuffix("_") if written else name, arguments, result, func, place
        )
        if any(isinstance(t, Tensor) and t.layout is not torch.strided for t in results):
            raise call.refusal("gives a sparse tensor, which can't be served; leave it dense")
        fresh = [
            isinstance(tensor, Tensor) and (written or tensor.untyped_storage()._cdata not in given)
            for tensor in results
        ]
        if name == "_local_scalar_dense":
            with trace.resumed():
                trace.decide()
        if any(fresh):
            for tensor, where in zip(results, _elements(call, results, random), strict=False):
                if isinstance(tensor, Tensor) and where is not None:
                    trace.origins.write(tensor, where)
        return result


def _elements(call: Call, results: list[Any], random: bool) -> list[Elements | None]:
    try:
        if random:
            raise call.refusal(
                "gives random numbers, others each time; dropout that runs in eval, perhaps"
            )
        for result in results:
            if isinstance(result, Tensor) and is_narrow(result):
                raise call.refusal(narrow_words(result))
        found = HANDLERS.get(call.name, operations.unknown)(call)
        return list(found) if isinstance(found, tuple) else [found]
    except Refusal as caught:
        refusal = caught
        if _chooses(call):  # and how many it chose is seen in the shape
            with call.trace.resumed():
                call.trace.decide()
    except Exception as error:  # an operation in a form that was never met
        refusal = call.refusal(f"could not be read: {type(error).__name__}: {error}")
    return [
        call.trace.refuse(refusal, tuple(tensor.shape)) if isinstance(tensor, Tensor) else None
        for tensor in results
    ]


def _chooses(call: Call) -> bool:
    """Whether the result has as many numbers as others say."""
    if call.name == "index":
        return any(
            isinstance(index, Tensor) and index.dtype == torch.bool and call.trace.depends(index)
            for index in call["indices"]
        )
    return torch.Tag.dynamic_output_shape in call.function.tags


def _bound(func: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    """All arguments by name, defaults too."""
    names = [argument.name for argument in func._schema.arguments]
    bound: dict[str, Any] = {
        a.name: a.default_value for a in func._schema.arguments if a.has_default_value()
    }
    bound |= dict(zip(names, args, strict=False))
    return bound | dict(kwargs)


def _written(func: Any, arguments: dict[str, Any]) -> dict[str, Tensor]:
    """The arguments that the operation writes into."""
    return {
        argument.name: arguments[argument.name]
        for argument in func._schema.arguments
        if argument.alias_info is not None
        and argument.alias_info.is_write
        and isinstance(arguments.get(argument.name), Tensor)
    }


def _refuse_lists(trace: Trace, func: Any, arguments: dict[str, Any]) -> None:
    """Tensors that were written as a list of them: what they are then is not followed."""
    for argument in func._schema.arguments:
        value = arguments.get(argument.name)
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        for tensor in value if isinstance(value, list | tuple) else ():
            refusal = Refusal(
                f"{func._schema.name.split('::')[-1]}: writes into a list of tensors, which has no "
                "layer; write into each of them",
                trace.places.here(),
            )
            trace.origins.write(tensor, trace.refuse(refusal, tuple(tensor.shape)))


def _copy(trace: Trace, tensor: Tensor) -> Tensor:
    """The tensor as it is now."""
    copy = tensor.clone()
    if trace.depends(tensor):
        trace.origins.write(copy, trace.elements(tensor))
    return copy


class _Functions(TorchFunctionMode):
    """Sees the functions of torch's that are one layer, or lead out of torch."""

    def __init__(self, trace: Trace):
        super().__init__()
        self._trace = trace

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        trace = self._trace
        if trace.is_paused:
            return func(*args, **kwargs)
        if getattr(func, "__name__", "") not in ("tensor", "as_tensor") and any(
            isinstance(leaf, SymbolicInt | SymbolicFloat) for leaf in tree_iter((args, kwargs))
        ):
            trace.decide()
        rewrite = operations.rewrite_of(func)
        if rewrite is not None and any(map(trace.depends, tree_iter((args, kwargs)))):
            return rewrite(*args, **kwargs)
        leaf = operations.leaf_of(func)
        if leaf is None:
            return func(*args, **kwargs)
        with trace.paused():
            return leaf(trace, args, kwargs, func(*args, **kwargs))
