"""The rates that floors come from, measured on the GPU that they are floors of."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.gpu.clock import median
from benchmarks.gpu.floor import Rates
from benchmarks.gpu.systems import CUDA, DTYPES, left_to, models, use
from bilstm_server.model import RaggedBatch

MATMUL_SIZE = 8192
COPY_BYTES = 4 * 2**30
L2_BYTES, L2_READS = 8 * 2**20, 512
CHAIN_STEPS = 2048


def ceilings() -> Rates:
    """Those that need no kernel of ours."""
    properties: Any = torch.cuda.get_device_properties(CUDA)
    products = {arithmetic: _product_rate(arithmetic) for arithmetic in DTYPES}
    source = torch.randn(COPY_BYTES // 4, device=CUDA)
    copy = torch.empty_like(source)
    memory = 2 * COPY_BYTES / median(lambda: copy.copy_(source)) / 1e6
    few = source[: L2_BYTES // 4].expand(L2_READS, -1)
    l2 = L2_READS * L2_BYTES / median(lambda: few.sum(1)) / 1e6
    return Rates(
        **products,
        memory=memory,
        l2=l2,
        on_chip_bytes=properties.multi_processor_count * properties.shared_memory_per_block_optin,
    )


def _product_rate(arithmetic: str) -> float:
    """TFLOP/s"""
    use(arithmetic)
    a, b = torch.randn(2, MATMUL_SIZE, MATMUL_SIZE, device=CUDA).to(DTYPES[arithmetic])
    return 2 * MATMUL_SIZE**3 / median(lambda: a @ b) / 1e6


def chain_step() -> float | None:
    """Microseconds of the kernel's own step where there is next to nothing to compute: one
    sequence, hidden 64, bfloat16. From two lengths, so that what a launch takes is not in it.
    """
    ours = models("bfloat16", 64, layers=1).ours
    if left_to(ours):
        return None

    def forward(steps: int) -> float:
        batch = RaggedBatch([steps], CUDA)
        x = torch.randn(steps, 64, device=CUDA).bfloat16()
        return median(lambda: ours.forward_ragged(x, batch))

    return (forward(2 * CHAIN_STEPS) - forward(CHAIN_STEPS)) / CHAIN_STEPS
