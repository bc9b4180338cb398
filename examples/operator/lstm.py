"""A bidirectional LSTM in some sixty lines of code: cell, direction, bidirectional layer, stack.

    python examples/operator/lstm.py

Plain torch over a ragged batch: the N steps of B sequences lie one below the other, and nothing is
padded. D is the width of the input, H the hidden size, A how many sequences have a step t. Run as
a program, it compares itself with nn.LSTM. docs/operator.md explains it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_sequence, unpack_sequence

States = tuple[Tensor, Tensor]  # h and c
Weights = Sequence[Tensor]  # w_ih [4H, D], w_hh [4H, H], b_ih [4H], b_hh [4H]
NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def cell(x: Tensor, state: States, weights: Weights) -> States:
    """One step of one direction: x [A, D], h and c [A, H] -> the next h and c.

    The 4H rows of each weight are the gates in torch's order: input i, forget f, candidate g,
    output o.
    """
    (h, c), (w_ih, w_hh, b_ih, b_hh) = state, weights
    gates = F.linear(x, w_ih, b_ih) + F.linear(h, w_hh, b_hh)  # [A, 4H]
    i, f, g, o = gates.chunk(4, dim=1)  # [A, H] each
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def direction(
    x: Tensor, lengths: Tensor, state: States, weights: Weights, *, backward: bool
) -> tuple[Tensor, States]:
    """All steps of one direction: x [N, D], h and c [B, H] -> y [N, H], the last h and c."""
    h, c = state
    first = lengths.cumsum(0) - lengths  # [B]: the row of each sequence's first step
    rows, outputs = [], []
    for t in range(int(lengths.max())):
        alive = (lengths > t).nonzero()[:, 0]  # [A]: the sequences that have a step t
        step = lengths[alive] - 1 - t if backward else t  # backward begins at each one's own end
        row = first[alive] + step  # [A]
        h_t, c_t = cell(x[row], (h[alive], c[alive]), weights)  # [A, H] each
        h, c = h.index_copy(0, alive, h_t), c.index_copy(0, alive, c_t)  # the ended keep theirs
        rows.append(row)
        outputs.append(h_t)
    return torch.cat(outputs)[torch.cat(rows).argsort()], (h, c)


def bidirectional(
    x: Tensor, lengths: Tensor, states: Sequence[States], weights: Sequence[Weights]
) -> tuple[Tensor, list[States]]:
    """One layer, two directions that know nothing of each other: x [N, D] -> y [N, 2H]."""
    forward, forward_state = direction(x, lengths, states[0], weights[0], backward=False)
    backward, backward_state = direction(x, lengths, states[1], weights[1], backward=True)
    return torch.cat([forward, backward], dim=1), [forward_state, backward_state]


class Stack(nn.Module):
    """Bidirectional layers, each over the one below it; the parameters have nn.LSTM's names."""

    def __init__(self, input_size: int, hidden_size: int, num_layers: int, dropout: float = 0.0):
        super().__init__()
        self.hidden_size, self.num_layers, self.dropout = hidden_size, num_layers, dropout
        bound, gates = hidden_size**-0.5, 4 * hidden_size
        for layer in range(num_layers):
            width = 2 * hidden_size if layer else input_size
            shapes = [(gates, width), (gates, hidden_size), (gates,), (gates,)]
            for suffix in (f"_l{layer}", f"_l{layer}_reverse"):
                for name, shape in zip(NAMES, shapes, strict=True):
                    weight = torch.empty(shape).uniform_(-bound, bound)
                    self.register_parameter(name + suffix, nn.Parameter(weight))

    def forward(
        self, x: Tensor, lengths: Tensor, hx: States | None = None
    ) -> tuple[Tensor, States]:
        """x [N, D], lengths [B], hx [2 * layers, B, H] each -> y [N, 2H], h_n and c_n as hx."""
        zeros = x.new_zeros(2 * self.num_layers, len(lengths), self.hidden_size)
        initial = list(zip(*(hx or (zeros, zeros)), strict=True))  # [B, H] each
        final: list[States] = []
        for layer in range(self.num_layers):
            if layer:
                x = F.dropout(x, self.dropout, self.training)  # between layers only
            weights = [
                [self.get_parameter(name + suffix) for name in NAMES]
                for suffix in (f"_l{layer}", f"_l{layer}_reverse")
            ]
            x, states = bidirectional(x, lengths, initial[2 * layer : 2 * layer + 2], weights)
            final += states
        h_n, c_n = zip(*final, strict=True)
        return x, (torch.stack(h_n), torch.stack(c_n))


def differences(lengths: list[int]) -> dict[str, float]:
    """The largest differences from nn.LSTM with the same weights, in float64, by name."""
    judge = nn.LSTM(12, 16, num_layers=2, bidirectional=True, dtype=torch.float64)
    stack = Stack(12, 16, num_layers=2).double()
    stack.load_state_dict(judge.state_dict())
    x = torch.randn(sum(lengths), 12, dtype=torch.float64, requires_grad=True)
    h_0, c_0 = torch.randn(2, 4, len(lengths), 16, dtype=torch.float64)

    y, (h_n, c_n) = stack(x, torch.tensor(lengths), (h_0, c_0))
    packed = pack_sequence(list(torch.split(x, lengths)), enforce_sorted=False)
    packed_y, (their_h_n, their_c_n) = judge(packed, (h_0, c_0))
    their_y = torch.cat(unpack_sequence(packed_y))

    probe = torch.randn_like(y)  # so that each output counts, and differently
    loss = (y * probe).sum() + (h_n * c_n).sum()
    their_loss = (their_y * probe).sum() + (their_h_n * their_c_n).sum()
    own = torch.autograd.grad(loss, [x, *stack.parameters()])
    theirs = torch.autograd.grad(their_loss, [x, *judge.parameters()])
    gradients = [f"gradient of {name}" for name in ("x", *judge.state_dict())]
    return {
        name: (one - other).abs().max().item()
        for name, one, other in zip(
            ["y", "h_n", "c_n", *gradients],
            [y.detach(), h_n.detach(), c_n.detach(), *own],
            [their_y.detach(), their_h_n.detach(), their_c_n.detach(), *theirs],
            strict=True,
        )
    }


SERVED = """
The operator that is served, bilstm_server.model.BiLSTM, has the same equations, and adds
  the product of the inputs, for all steps at once, before the first step
  both directions in one step, and the longest sequence first: who is alive is then a prefix
  bias=False, one direction, projections, padded, packed and unbatched input, half precision
  kernels for CPUs (C++) and GPUs (Triton); `make parity` holds each against nn.LSTM"""


def main() -> int:
    torch.set_num_threads(1)  # the products are small: a second thread would only wait
    torch.manual_seed(0)
    print("largest differences from nn.LSTM, 2 bidirectional layers, float64:")
    found = differences([5, 1, 9, 3])
    for name, difference in found.items():
        print(f"  {name:36}{difference:.1e}")
    print(SERVED)
    return 0 if max(found.values()) <= 1e-10 else 1


if __name__ == "__main__":
    sys.exit(main())
