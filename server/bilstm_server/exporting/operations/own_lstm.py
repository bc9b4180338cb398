"""This house's own operator within a module: a layer, as torch's LSTM is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from ...model.bilstm import BiLSTM, States
from ...model.kernels import RaggedBatch
from ..trace import Trace
from .lstm import Arguments, lstm


@contextmanager
def own_lstms(trace: Trace) -> Iterator[None]:
    """Within, calls of a `BiLSTM` with one sequence are layers of the recording."""
    run = BiLSTM._run

    def recorded(
        module: BiLSTM, x: Tensor, batch: RaggedBatch, hx: States | None
    ) -> tuple[Tensor, States]:
        if trace.is_paused or len(batch) != 1:
            return run(module, x, batch, hx)
        with trace.paused():
            y, states = run(module, x, batch, hx)
            rows = module.num_layers * module.num_directions
            zeros = (x.new_zeros(rows, 1, n) for n in (module.output_size, module.hidden_size))
            call = Arguments(
                x,
                list(zeros) if hx is None else hx,
                [weight for weights in module.all_weights for weight in weights],
                module.bias,
                module.num_layers,
                module.bidirectional,
                batch_first=False,
                is_packed=True,
            )
            lstm(trace, call, (y, *states))
        return y, states

    BiLSTM._run = recorded  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        BiLSTM._run = run  # type: ignore[method-assign]
