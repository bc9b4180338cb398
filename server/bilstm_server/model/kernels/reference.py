"""The LSTM equations in plain torch: readable, differentiable, on any device.

The fast kernels are judged by this one, and this one by nn.LSTM. For each step t
(Hochreiter & Schmidhuber 1997, with Gers' forget gate; projection: Sak et al. 2014):

    i = sigmoid(W_ii x + b_ii + W_hi h + b_hi)        input gate
    f = sigmoid(W_if x + b_if + W_hf h + b_hf)        forget gate
    g = tanh   (W_ig x + b_ig + W_hg h + b_hg)        cell candidate
    o = sigmoid(W_io x + b_io + W_ho h + b_ho)        output gate
    c = f * c + i * g
    h = W_hr (o * tanh(c))                            W_hr: identity without a projection
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from .interface import DirectionInput, DirectionWeights, Linear, Results, Viterbi, state_type
from .ragged import RaggedBatch
from .viterbi import ReferenceViterbi

# Half-precision types, and what says whether oneDNN computes products of them on this CPU.
_HALVES = {
    torch.bfloat16: "_is_mkldnn_bf16_supported",
    torch.float16: "_is_mkldnn_fp16_supported",
}


class ReferenceLayer:
    """Advances both directions together, with one batched product a step, over the sequences that
    have the step.

    In the shapes below K is the number of directions, and S the number of these sequences.
    """

    name = kernel = "reference"

    def __init__(self, directions: Sequence[DirectionWeights], fallback_reason: str | None = None):
        """`fallback_reason` says why it is not a faster kernel's layer."""
        self.fallback_reason = fallback_reason
        own, device = directions[0].w_ih.dtype, directions[0].w_ih.device
        # Half-precision models keep gates and cell state in float32, and run in it altogether
        # where the device would be slow at products of halves.
        self._state_dtype = state_type(own)
        self._dtype = own if _has_products(own, device) else self._state_dtype
        self._directions = len(directions)
        dtype = self._dtype
        w_ih = [_sigmoids_first(d.w_ih.to(dtype)) for d in directions]
        w_hh = [_sigmoids_first(d.w_hh.to(dtype)).t() for d in directions]
        bias = [
            _sigmoids_first(d.b_ih.to(dtype) + d.b_hh.to(dtype))
            for d in directions
            if d.b_ih is not None and d.b_hh is not None
        ]
        w_hr = [d.w_hr.to(dtype).t() for d in directions if d.w_hr is not None]
        self._w_ih = torch.stack(w_ih)  # [K, 4H, D]
        self._bias = torch.stack(bias) if bias else None  # [K, 4H]
        self._w_hh = torch.stack(w_hh)  # [K, P, 4H]
        self._w_hr = torch.stack(w_hr) if w_hr else None  # [K, H, P]

    def __call__(self, x: Tensor, batch: RaggedBatch, h_0: Tensor, c_0: Tensor) -> Results:
        """See `Layer`."""
        y, h_n, c_n = self._run(range(self._directions), x, batch, h_0, c_0)
        return y, h_n.to(h_0.dtype), c_n.to(c_0.dtype)

    def per_direction(self, inputs: Sequence[DirectionInput | None]) -> list[Results | None]:
        """See `Layer`."""
        return [given and self._run_one(k, given) for k, given in enumerate(inputs)]

    @staticmethod
    def linear(weight: Tensor, bias: Tensor | None) -> Linear:
        """See `Kernel`."""
        weight = weight.detach().clone()
        bias = None if bias is None else bias.detach().clone()
        return partial(F.linear, weight=weight, bias=bias)

    @staticmethod
    def viterbi(transitions: Tensor, start: Tensor, end: Tensor) -> Viterbi:
        """See `Kernel`."""
        return ReferenceViterbi(*(own.detach().clone() for own in (transitions, start, end)))

    def _run_one(self, k: int, given: DirectionInput) -> Results:
        x, batch, h_0, c_0 = given
        y, h_n, c_n = self._run(range(k, k + 1), x, batch, h_0[None], c_0[None])
        return y, h_n[0].to(self._state_dtype), c_n[0]

    def _run(
        self, directions: range, x: Tensor, batch: RaggedBatch, h_0: Tensor, c_0: Tensor
    ) -> Results:
        """Run some of the directions, K of them. States keep the types that they have here."""
        own = slice(directions.start, directions.stop)
        w_hh, w_hr = self._w_hh[own], None if self._w_hr is None else self._w_hr[own]
        h = h_0.index_select(1, batch.order).to(self._dtype)
        c = c_0.index_select(1, batch.order).to(self._state_dtype)
        outputs: list[Tensor] = []
        ended: list[tuple[Tensor, Tensor]] = []  # states of sequences that ended, shortest first
        rows = [_rows(batch, k) for k in directions]
        projected = self._project(x.to(self._dtype), own, rows)
        for step in torch.split(projected, batch.batch_sizes, dim=1):
            active = step.shape[1]
            if active < h.shape[1]:
                ended.append((h[:, active:], c[:, active:]))
                h, c = h[:, :active], c[:, :active]
            h, c = self._step(step, h, c, w_hh, w_hr)
            outputs.append(h)
        ended.append((h, c))
        h_n = torch.cat([h for h, _ in reversed(ended)], dim=1).index_select(1, batch.rank)
        c_n = torch.cat([c for _, c in reversed(ended)], dim=1).index_select(1, batch.rank)
        return _in_order(torch.cat(outputs, dim=1).to(x.dtype), rows), h_n, c_n

    def _project(self, x: Tensor, own: slice, rows: Sequence[Tensor]) -> Tensor:
        """[N, D] -> W_ih x + b, [K, N, 4H], in step order"""
        # W_ih of the directions one below the other: one product projects every step.
        bias = None if self._bias is None else self._bias[own].flatten()
        gates = F.linear(x, self._w_ih[own].flatten(0, 1), bias).chunk(len(rows), dim=1)
        return torch.stack([g.index_select(0, r) for g, r in zip(gates, rows, strict=True)])

    def _step(
        self, projected: Tensor, h: Tensor, c: Tensor, w_hh: Tensor, w_hr: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """[K, S, 4H], [K, S, P], [K, S, H] -> the next h and c."""
        gates = torch.baddbmm(projected, h, w_hh).to(self._state_dtype)
        hidden = c.shape[2]
        sigmoids, candidate = torch.split(gates, [3 * hidden, hidden], dim=2)
        i, f, o = torch.sigmoid(sigmoids).chunk(3, dim=2)
        c = torch.addcmul(f * c, i, torch.tanh(candidate))
        h = (o * torch.tanh(c)).to(projected.dtype)
        return (h if w_hr is None else torch.bmm(h, w_hr)), c


def _rows(batch: RaggedBatch, direction: int) -> Tensor:
    """[N]: place in the direction's step order -> row."""
    return batch.backward_rows if direction else batch.forward_rows


def _in_order(outputs: Tensor, rows: Sequence[Tensor]) -> Tensor:
    """[K, N, P] in step order -> [N, K * P] in the caller's order."""
    directions, steps, width = outputs.shape
    y = outputs.new_empty(steps, directions * width)
    for k, direction in enumerate(outputs):
        y[:, k * width : (k + 1) * width].index_copy_(0, rows[k], direction)
    return y


def _has_products(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the device is fast at products of this type. Where oneDNN leaves those of halves to
    torch, it computes them number by number, many times slower than float32's.
    """
    if device.type != "cpu" or dtype not in _HALVES:
        return True
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return bool(getattr(torch.ops.mkldnn, _HALVES[dtype])())


def _sigmoids_first(gates: Tensor) -> Tensor:
    """Reorder rows from i, f, g, o to i, f, o, g, so that a step has one sigmoid and one tanh."""
    i, f, g, o = gates.chunk(4)
    return torch.cat([i, f, o, g])
