"""Holds a converted module to what the module itself gives."""

from __future__ import annotations

import numpy as np
import torch

from bilstm_server.exporting import Converted
from bilstm_server.model.graph import SequenceEncoder
from bilstm_server.model.kernels import RaggedBatch

TOLERANCE = 1e-5


def encoder_of(converted: Converted) -> SequenceEncoder:
    """The model that would be served, in float32 on the CPU."""
    encoder = SequenceEncoder(converted.config)
    encoder.load_state_dict(converted.tensors)
    return encoder.eval()


def assert_same(converted: Converted, lengths: tuple[int, ...]) -> None:
    """Alone and in one ragged batch, every output is the module's."""
    config = converted.config
    encoder = encoder_of(converted)
    lengths = tuple(max(steps, config.min_steps + steps - 1) for steps in lengths)
    sequences = [converted.sample(steps, seed=100 + steps) for steps in lengths]
    expected = [converted.run(sequence) for sequence in sequences]
    joined = {name: torch.cat([its[name] for its in sequences]) for name in config.inputs}
    for inputs, steps, results in (
        *((its, (n,), [one]) for its, n, one in zip(sequences, lengths, expected, strict=True)),
        (joined, lengths, expected),
    ):
        batch = RaggedBatch(np.array(steps))
        with torch.no_grad():
            given = encoder([inputs[n] for n in config.inputs], batch, None, tuple(config.outputs))
        for name, value in config.output_values.items():
            want = torch.cat(
                [result[name].reshape(-1, 1 if value.ids else value.width) for result in results]
            )
            if value.sparse:
                assert torch.equal(given[name][given[name] >= 0], want.reshape(-1)), (name, steps)
                continue
            got = given[name].reshape(want.shape)
            if value.ids:
                assert torch.equal(got.long(), want.long()), (name, steps)
            else:
                want = want.float()
                scale = max(1.0, float(want.nan_to_num().abs().max()))
                apart = torch.where(got.isnan() & want.isnan(), 0.0, (got - want).abs())
                assert float(apart.max()) <= TOLERANCE * scale, (name, steps)
