"""Triton's interpreter, so that the gpu kernel's programs run without a GPU.

It runs programs one after another and knows no PTX. Here those that wait for each other run at the
same time, each in a process of its own over shared memory, and the three instructions that they
wait with are emulated. Products of bfloat16, which the interpreter takes for integers, are mended.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import triton.language as tl
from triton.runtime import interpreter

PATIENCE_SECONDS = 120

# Some programs fall behind in each step: one that does not wait for them reads too early.
SLOW_EACH = 3
SLOW_SECONDS = 0.02

_lock = multiprocessing.Lock()


@contextmanager
def mended_interpreter() -> Iterator[None]:
    """The interpreter as above."""
    with pytest.MonkeyPatch.context() as patch:
        _mend_products(patch)
        patch.setattr(interpreter.InterpreterBuilder, "create_inline_asm", _run_instruction)
        patch.setattr(interpreter.GridExecutor, "__call__", _run_grid)
        yield


def _mend_products(patch: pytest.MonkeyPatch) -> None:
    original = interpreter.InterpreterBuilder.create_dot

    def wide(factor: Any) -> Any:
        if factor.dtype.scalar != tl.bfloat16:
            return factor
        numbers = (factor.data.astype(np.uint32) << 16).view(np.float32)
        return interpreter.TensorHandle(numbers, tl.float32)

    def create_dot(self: Any, a: Any, b: Any, *others: Any) -> Any:
        return original(self, wide(a), wide(b), *others)

    patch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)


def _run_instruction(
    builder: Any, text: str, _constraints: str, values: Sequence[Any], *_others: Any
) -> Any:
    if "trap" in text:
        raise RuntimeError("trap")
    address = values[0].data.item()
    counter = np.ctypeslib.as_array((ctypes.c_int32 * 1).from_address(address))
    if "ld.acquire" in text:
        time.sleep(0)
        count = counter[0]
    else:
        assert "red.release" in text
        if builder.grid_idx[0] % SLOW_EACH == 0:
            time.sleep(SLOW_SECONDS)
        with _lock:
            counter[0] += 1
        count = 0
    result = interpreter.TensorHandle(np.array([count], np.int32), tl.int32)
    return SimpleNamespace(get_result=lambda _: result)


_run_in_turn = interpreter.GridExecutor.__call__


def _run_grid(executor: Any, *args: Any, **kwargs: Any) -> None:
    if not kwargs.get("launch_cooperative_grid"):
        _run_in_turn(executor, *args, **kwargs)
        return
    for tensor in args:
        if isinstance(tensor, torch.Tensor):
            tensor.untyped_storage().share_memory_()
    forking = multiprocessing.get_context("fork")
    processes = [
        forking.Process(target=_run_program, args=(program, executor, args, kwargs), daemon=True)
        for program in range(executor.grid[0])
    ]
    for process in processes:
        process.start()
    deadline = time.monotonic() + PATIENCE_SECONDS
    for process in processes:
        process.join(max(deadline - time.monotonic(), 0))
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert not any(code != 0 for code in codes), f"the programs ended with {codes}"


def _run_program(program: int, executor: Any, args: Any, kwargs: Any) -> None:
    """One of a grid's, in a process of its own."""
    builder = interpreter.InterpreterBuilder
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executor, "grid", (1,))
        patch.setattr(
            builder, "set_grid_idx", lambda self, *_: setattr(self, "grid_idx", (program, 0, 0))
        )
        patch.setattr(executor, "_restore_args_dev", lambda *_: None)  # they are shared
        _run_in_turn(executor, *args, **kwargs)
