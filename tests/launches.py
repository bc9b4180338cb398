"""What batches of all sizes would launch on a GPU, by each plan, as JSON: for a process of its own.

python tests/launches.py
"""

from __future__ import annotations

import json

import torch

from benchmarks.gpu.listing import HOPPER, ListingDriver
from bilstm_server.model.kernels.gpu.layer import GpuLayer
from bilstm_server.model.kernels.gpu.plans import Cost, CostTable, Plan, Shape, candidates
from bilstm_server.model.kernels.interface import DirectionInput, DirectionWeights
from bilstm_server.model.kernels.ragged import RaggedBatch

SEQUENCES = (1, 2, 3, 5, 16, 17, 32, 100, 333)
HIDDEN = 40  # not of the sizes that loads like
SHAPE = Shape(HIDDEN, 2, torch.bfloat16, "ieee")


def run(layer: GpuLayer, sequences: int) -> None:
    """A batch in all forms."""
    lengths = [1 + index % 3 for index in range(sequences)]
    batch = RaggedBatch(lengths)
    x = torch.zeros(batch.steps, 5, dtype=SHAPE.dtype)
    h, c = torch.zeros(2, 2, sequences, HIDDEN, dtype=SHAPE.dtype)
    layer(x, batch, h, c)
    part = DirectionInput(x, batch, h[0].float(), c[0].float())
    for parts in ([part, part], [part, None], [None, part]):
        layer.per_direction(parts)


def launches(plan: Plan) -> dict[str, object]:
    driver = ListingDriver()
    driver.activate()
    half = torch.zeros(4 * HIDDEN, 5, dtype=SHAPE.dtype)
    weights = DirectionWeights(half, half.new_zeros(4 * HIDDEN, HIDDEN), None, None, None)
    table = CostTable(2, HOPPER, {plan: Cost(0.0, 0.0, 0.0)})
    for sequences in SEQUENCES:
        # A new layer: what it has launched once, it does not have specialised again.
        run(GpuLayer([weights, weights], SHAPE, table), sequences)
    return {
        "plan": str(plan),
        "slices": plan.slices,
        "binaries": len({launch.binary.code for launch in driver.launches}),
        "launches": len(driver.launches),
        "programs": max(launch.programs for launch in driver.launches),
        "cooperative": sorted({launch.cooperative for launch in driver.launches}),
    }


if __name__ == "__main__":
    print(json.dumps([launches(plan) for plan in candidates(SHAPE, HOPPER)]))
