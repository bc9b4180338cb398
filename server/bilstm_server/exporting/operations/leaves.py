"""Functions of torch's that are one layer or lead out of torch, before they are taken apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from ..elements import CONSTANT
from ..refusals import BY_NUMPY, Refusal
from ..symbols import SymbolicArray, symbols_of, where_of
from ..trace import Call, Trace
from .lookups import one_hot as _one_hot
from .lstm import Arguments, lstm
from .norms import rms_norm

Leaf = Callable[[Trace, Any, Any, Any], Any]

_BEFORE = "has no layer, an LSTM has; serve the part of the model before it, or the one behind it"

_REFUSED = {
    "gru": f"a GRU {_BEFORE}",
    "rnn_tanh": f"a plain RNN {_BEFORE}",
    "rnn_relu": f"a plain RNN {_BEFORE}",
    "lstm_cell": "an LSTM written step by step has no layer; put its weights into an nn.LSTM",
    "gru_cell": f"a GRU {_BEFORE}",
    "rnn_tanh_cell": f"a plain RNN {_BEFORE}",
    "rnn_relu_cell": f"a plain RNN {_BEFORE}",
    "stft": "a Fourier transform has no layer; give the model its features, computed by the client",
}


def leaf_of(func: Any) -> Leaf | None:
    """What to do after a function ran, if it is one of those here."""
    name = getattr(func, "__name__", "")
    if name in _REFUSED:
        return lambda trace, args, kwargs, result: _refused(name, trace, args, result)
    return _LEAVES.get(name)


def _refused(name: str, trace: Trace, args: Any, result: Any) -> Any:
    place = trace.places.here()
    trace.count(place)
    if any(map(trace.depends, tree_leaves(args))):
        refusal = Refusal(_REFUSED[name], place)
        for tensor in result if isinstance(result, tuple) else (result,):
            trace.origins.write(tensor, trace.refuse(refusal, tuple(tensor.shape)))
    return result


def _lstm(trace: Trace, args: Any, kwargs: Any, result: Any) -> Any:
    lstm(trace, Arguments.of(args), result)
    return result


def _one_hots(trace: Trace, args: Any, kwargs: Any, result: Tensor) -> Tensor:
    ids = args[0]
    if trace.depends(ids):
        _one_hot(trace, ids, result.shape[-1], result)
    return result


def _rms_norm(trace: Trace, args: Any, kwargs: Any, result: Tensor) -> Tensor:
    names = ("input", "normalized_shape", "weight", "eps")
    given = dict(zip(names, args, strict=False)) | kwargs
    if trace.depends(given["input"]):
        call = Call(trace, "rms_norm", given, result, None, trace.places.here())
        try:
            where = rms_norm(call)
        except Refusal as refusal:
            where = trace.refuse(refusal, tuple(result.shape))
        trace.origins.write(result, where)
    return result


def _leave(trace: Trace, args: Any, kwargs: Any, result: Any) -> Any:
    """Numbers of a tensor as Python's: they remember where they come from."""
    tensor = args[0]
    if not trace.depends(tensor):
        return result
    with trace.resumed():
        return symbols_of(result, trace.elements(tensor), trace)


def _leave_as_array(trace: Trace, args: Any, kwargs: Any, result: Any) -> Any:
    """A tensor's numbers as an array, which remembers where they come from."""
    if not trace.depends(args[0]):
        return result
    place = trace.places.here()
    trace.arrays.append(place)
    trace.note(f"{place}: gives numbers to numpy, where no more than what is returned is followed.")
    array = result.view(SymbolicArray)
    array.where, array.owner = trace.elements(args[0]), trace
    return array


def _leave_unseen(trace: Trace, args: Any, kwargs: Any, result: Any) -> Any:
    """What numpy itself takes from a tensor, as a plain array."""
    if trace.depends(args[0]):
        with trace.resumed():
            trace.decide(BY_NUMPY)
    return result


def _decide(trace: Trace, args: Any, kwargs: Any, result: Any) -> Any:
    """Truth, or another number that Python can't remember the origin of."""
    if any(map(trace.depends, tree_leaves((args, kwargs)))):
        with trace.resumed():
            trace.decide()
    return result


def _print(trace: Trace, args: Any, kwargs: Any, result: Any) -> Any:
    """Words, of which nothing is computed."""
    return result


def _copied(trace: Trace, args: Any, kwargs: Any, result: Tensor) -> Tensor:
    if trace.depends(args[0]):
        trace.origins.write(result, trace.elements(args[0]))
    return result


def _enter(trace: Trace, args: Any, kwargs: Any, result: Tensor) -> Tensor:
    """A tensor made of Python's numbers, or of an array."""
    if isinstance(args[0], SymbolicArray) and args[0].where is None:
        refusal = Refusal(BY_NUMPY, trace.places.here())
        trace.origins.write(result, trace.refuse(refusal, tuple(result.shape)))
        return result
    where = where_of(args[0])
    if where is not None and (where != CONSTANT).any():
        trace.origins.write(result, where.reshape(tuple(result.shape)))
    elif isinstance(args[0], Tensor) and trace.depends(args[0]):
        trace.origins.write(result, trace.elements(args[0]))
    return result


_LEAVES: dict[str, Leaf] = {
    "lstm": _lstm,
    "one_hot": _one_hots,
    "rms_norm": _rms_norm,
    "item": _leave,
    "numpy": _leave_as_array,
    "tolist": _leave,
    "__int__": _decide,  # makes Python's own of whatever is returned
    "__float__": _decide,
    "__bool__": _decide,
    "__index__": _decide,
    "__contains__": _decide,
    "allclose": _decide,
    "equal": _decide,
    "is_nonzero": _decide,
    "__format__": _print,
    "__repr__": _print,
    "__str__": _print,
    "__array__": _leave_unseen,
    "__deepcopy__": _copied,
    "tensor": _enter,
    "as_tensor": _enter,
}
