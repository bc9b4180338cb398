"""The device a model is computed on: which one, its memory, and how it is doing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from ..errors import DeviceLost, ModelError, OutOfMemory
from ..process.threads import available_processors

# What torch says without a type of its own when there is no memory: the CPU's; on CUDA page-locked
# memory, or what kernels are loaded into; cuBLAS's.
_NO_MEMORY = ("DefaultCPUAllocator", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def choose_device(name: str) -> torch.device:
    """Choose a device by name; `auto` is cuda if there is one, else the CPU.

    Raises `ModelError` for a cuda that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ModelError("device cuda: torch finds no usable GPU here (choose --device cpu)")
    return torch.device(name)


def choose_threads(count: int) -> int:
    """How many threads are to compute on the CPU: `count`, or if that is 0, what OMP_NUM_THREADS
    says, or one for each processor that this process may use.
    """
    if count:
        return count
    threads = torch.get_num_threads()
    if "OMP_NUM_THREADS" in os.environ:
        return threads
    return min(threads, available_processors())  # torch sees no quota


def use_threads(count: int) -> None:
    """Let the calling thread compute with so many threads, torch's own and a kernel's; and so each
    thread that has not computed yet. Those that have go on as they did.
    """
    torch.get_num_threads()  # a thread's first use of torch would set the process's number anew
    torch.set_num_threads(count)


def use_tf32(allowed: bool) -> None:
    """Set whether factors of float32 products are rounded to TF32 on a GPU, for models that are
    loaded later."""
    torch.backends.cuda.matmul.allow_tf32 = allowed


def bound_memory(device: torch.device, max_bytes: int) -> None:
    """Bound the memory of a GPU that torch may take for all models. 0 is as much as there is."""
    if device.type == "cuda" and max_bytes:
        _, total = torch.cuda.mem_get_info(device)
        with torch.cuda.device(device):
            torch.cuda.set_per_process_memory_fraction(min(max_bytes / total, 1.0))


@contextmanager
def device_errors() -> Iterator[None]:
    """Turn the ways in which torch and numpy run out of memory into `OutOfMemory`, and what a GPU
    that is lost raises into `DeviceLost`.

    On CUDA, too, a lack of memory shows at once: it is allocated where kernels are launched, not
    when they run.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemory("out of memory") from error
    except RuntimeError as error:
        if any(words in str(error) for words in _NO_MEMORY):
            raise OutOfMemory("out of memory") from error
        if _is_lost():
            raise DeviceLost("the GPU is lost: the server ends") from error
        raise


def _is_lost() -> bool:
    """Whether an error has left CUDA unusable, as most of a kernel's do."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def memory_readers(device: torch.device) -> dict[str, Callable[[], float]]:
    """Functions that read a GPU's memory in bytes, by kind."""
    return {
        "free": lambda: torch.cuda.mem_get_info(device)[0],
        "total": lambda: torch.cuda.mem_get_info(device)[1],
        "reserved": lambda: torch.cuda.memory_reserved(device),
        "allocated": lambda: torch.cuda.memory_allocated(device),
    }


def utilization(device: torch.device) -> float:
    """The share of the last sample period in which a GPU was busy, 0 to 1."""
    return torch.cuda.utilization(device) / 100
