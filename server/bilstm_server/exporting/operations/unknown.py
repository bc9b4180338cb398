"""Words for operations that no layer type computes."""

from __future__ import annotations

from ..elements import Elements
from ..trace import Call

_HINTS = {
    "scaled_dot_product": "attention between all pairs of steps has no layer; serve up to it",
    "mkldnn_rnn": "an LSTM in a scripted module is not seen; export the module that was scripted",
    "cumsum": "a running sum over steps has no layer",
    "sort": "sorting has no layer; leave it to the client",
    "topk": "the largest few have no layer; leave it to the client",
    "fft": "a Fourier transform has no layer; give the model its features, computed by the client",
    "stft": "a Fourier transform has no layer; give the model its features, computed by the client",
    "group_norm": "its mean and variance are over the steps as well, which has no layer",
    "nonzero": "it chooses steps by their numbers, which has no layer",
    "embedding_renorm": "max_norm changes rows as they are read; scale the weight once, and set "
    "max_norm to None",
    "quantized": "a quantized layer can't be exported; export the module as it was before",
    "linear_dynamic": "a quantized layer can't be exported; export the module as it was before",
    "embedding_bag": "bags of ids have no layer; use nn.Embedding and a sum over steps",
}


def unknown(call: Call) -> Elements | tuple[Elements | None, ...]:
    """Refuse an operation that has no handler."""
    call.check_all()
    for part, hint in _HINTS.items():
        if part in call.name:
            raise call.refusal(hint)
    raise call.refusal("has no layer; serve the part of the model before it, or replace it")
