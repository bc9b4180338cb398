"""Graphs of one layer, and sequences for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bilstm_server.model.config import ModelConfig
from bilstm_server.model.graph import SequenceEncoder
from bilstm_server.model.kernels import RaggedBatch, choose_kernel

from .cases import Case

Sequences = list[list[Tensor]]  # by input: [T, width] of each sequence


def config_of(case: Case) -> dict[str, Any]:
    """A model of the case's layer, named `layer`. Its outputs are the layer's parts."""
    layers = [{"type": "lstm", "name": "lstm", "inputs": ["x0"], "hidden_size": 1}]
    reads = []
    for index in range(len(case.widths)):
        if index in case.per_sequence:
            layers.append({"type": "last", "name": f"last{index}", "inputs": [f"x{index}"]})
        reads.append(f"last{index}" if index in case.per_sequence else f"x{index}")
    return {
        "format": 2,
        "inputs": {f"x{index}": {"width": width} for index, width in enumerate(case.widths)},
        "layers": [*layers, {"name": "layer", "inputs": reads} | case.layer],
        "outputs": {f"y{part}": f"layer.{part}" if part else "layer" for part in case.parts},
    }


def graph_of(
    case: Case, dtype: torch.dtype = torch.float32, *, frozen: bool = True, device: str = "cpu"
) -> SequenceEncoder:
    """The model of `config_of`, with random parameters."""
    torch.manual_seed(0)
    encoder = SequenceEncoder(ModelConfig.model_validate(config_of(case))).to(dtype)
    with torch.no_grad():
        for name, tensor in encoder.state_dict().items():
            tensor.uniform_(0.5, 1.5) if name.endswith("running_var") else tensor.normal_(0, 0.5)
    encoder.to(device)
    return encoder.freeze(choose_kernel("auto", encoder.device).kernel) if frozen else encoder


def sequences_for(
    case: Case, lengths: Sequence[int], dtype: torch.dtype = torch.float32, seed: int = 1
) -> Sequences:
    """Random sequences, with zeros of both signs and equal numbers among them."""
    generator = torch.Generator().manual_seed(seed)

    def draw(steps: int, width: int) -> Tensor:
        x = 2 * torch.randn(steps, width, generator=generator, dtype=torch.float64)
        kind = torch.randint(12, x.shape, generator=generator)
        for number, value in enumerate((0.0, -0.0, 1.0)):
            x[kind == number] = value
        return x.to(dtype)

    return [[draw(steps, width) for steps in lengths] for width in case.widths]


def compute(encoder: SequenceEncoder, sequences: Sequences) -> list[tuple[Tensor, ...]]:
    """Encode the sequences as one batch: the parts of each."""
    lengths = [len(x) for x in sequences[0]]
    config = encoder.config
    batch = RaggedBatch(lengths, encoder.device)
    inputs = [torch.cat(x).to(encoder.device) for x in sequences]
    results = encoder(inputs, batch, outputs=config.outputs)
    parts = []
    for name, value in config.output_values.items():
        rows = value.grid.rows(batch.lengths).tolist() if value.per_step else [1] * len(lengths)
        parts.append(results[name].split(rows))
    return list(zip(*parts, strict=True))


@torch.inference_mode()
def inferred(encoder: SequenceEncoder, sequences: Sequences) -> list[tuple[Tensor, ...]]:
    """As `compute`, without gradients."""
    return compute(encoder, sequences)


def judged(case: Case, layer: nn.Module, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """What torch computes of one sequence, shaped as `compute` gives it."""
    own = [x[-1:] if index in case.per_sequence else x for index, x in enumerate(inputs)]
    results = case.judge(dict(layer.state_dict(keep_vars=True)), *own)
    parts = results if isinstance(results, tuple) else (results,)
    return tuple(
        part if len(part) == len(inputs[0]) or part.dim() > 1 else part[None] for part in parts
    )


def assert_same_bits(x: Tensor, y: Tensor) -> None:
    """All numbers have the same bits, or are NaN in both."""
    assert x.shape == y.shape
    assert x.dtype == y.dtype
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.itemsize]
    same = x.contiguous().view(integers) == y.contiguous().view(integers)
    differ = ~(same | (x.isnan() & y.isnan()))
    assert not differ.any(), (x[differ], y[differ])
