"""Layers of one plan, and what they are given, for the gpu kernel in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch

from bilstm_server.model.kernels.gpu.layer import GpuLayer, shape_of
from bilstm_server.model.kernels.gpu.plans import (
    Cost,
    CostTable,
    Plan,
    Processor,
)
from bilstm_server.model.kernels.interface import (
    DirectionInput,
    DirectionWeights,
)
from bilstm_server.model.kernels.ragged import RaggedBatch
from bilstm_server.model.kernels.reference import ReferenceLayer
from tests.support.lstms import pair

FEW = Processor(multiprocessors=4, shared_bytes=227 * 1024)
TOLERANCES = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}

every_dtype = pytest.mark.parametrize("dtype", TOLERANCES, ids=str)


def alone(hidden: int, rows: int = 16) -> Plan:
    units = max(16, 1 << (hidden - 1).bit_length())
    return Plan(units, 1, units, rows, units, True, 4, 1)


def shared(hidden: int, units: int, held: bool, rows: int = 16) -> Plan:
    depth = -(-hidden // 32) * 32
    return Plan(units, -(-hidden // units), depth, rows, 32, held, 4, 1)


@dataclass
class OnePlan:
    """A kernel whose layers know this plan only."""

    plan: Plan
    processor: Processor = FEW
    name: str = "gpu"

    def __call__(self, directions: Sequence[DirectionWeights]) -> GpuLayer:
        costs = {self.plan: Cost(0.0, 1.0, 1.0)}
        table = CostTable(len(directions), self.processor, costs)
        return GpuLayer(directions, shape_of(directions), table)

    linear = staticmethod(ReferenceLayer.linear)
    viterbi = staticmethod(ReferenceLayer.viterbi)


def draw_directions(hidden: int, dtype: torch.dtype) -> list[DirectionWeights]:
    _, lstm = pair(dtype, input_size=3, hidden_size=hidden)
    return [direction.copy() for direction in lstm.directions(0)]


def draw_input(lengths: list[int], hidden: int, dtype: torch.dtype) -> DirectionInput:
    batch = RaggedBatch(lengths)
    x = torch.randn(batch.steps, 3).to(dtype)
    return DirectionInput(
        x, batch, torch.randn(len(batch), hidden), torch.randn(len(batch), hidden)
    )


def double(part: DirectionInput | None) -> DirectionInput | None:
    if part is None:
        return None
    return DirectionInput(part.x.double(), part.batch, part.h_0.double(), part.c_0.double())
