"""How programs of a cooperative launch wait for each other, in Triton."""

from __future__ import annotations

import triton
import triton.language as tl

COUNTER_SPACING = tl.constexpr(32)  # int32 from one group's counter to the next: a cache line
MOST_POLLS = tl.constexpr(1 << 27)  # minutes: what a program waits for will never come


@triton.jit
def wait(arrived, target):
    """Wait until `target` programs have arrived in all: what they wrote before can then be read. A
    wait for what never comes ends with an error of the device."""
    polls = 0
    while _arrivals(arrived) < target:
        polls += 1
        if polls == MOST_POLLS:
            _trap()


@triton.jit
def _arrivals(arrived):
    return tl.inline_asm_elementwise(
        "ld.acquire.gpu.global.s32 $0, [$1];",
        "=r,l",
        [arrived],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )


@triton.jit
def arrive(arrived):
    """Say that what this program has written can be read: one thread for all."""
    tl.debug_barrier()
    tl.inline_asm_elementwise(
        """
        {
            .reg .pred first;
            .reg .u32 thread;
            mov.u32 thread, %tid.x;
            setp.eq.u32 first, thread, 0;
            @first red.release.gpu.global.add.s32 [$1], 1;
            mov.u32 $0, 0;
        }
        """,
        "=r,l",
        [arrived],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )


@triton.jit
def _trap():
    tl.inline_asm_elementwise(
        "trap; mov.u32 $0, 0;", "=r", [], dtype=tl.int32, is_pure=False, pack=1
    )
