"""The device a model is computed on: which one, and how it is doing."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..errors import ModelError


def choose_device(name: str) -> torch.device:
    """`auto` is cuda if there is one. Raises `ModelError` for a cuda that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ModelError("device cuda: torch finds no usable GPU here (choose --device cpu)")
    return torch.device(name)


def use_threads(count: int) -> None:
    """How many threads compute on the CPU, torch's own and a kernel's; 0: one for each core that
    this process may use.
    """
    if count:
        torch.set_num_threads(count)


def memory_readers(device: torch.device) -> dict[str, Callable[[], float]]:
    """What to read of a GPU's memory, in bytes, by kind."""
    return {
        "free": lambda: torch.cuda.mem_get_info(device)[0],
        "total": lambda: torch.cuda.mem_get_info(device)[1],
        "reserved": lambda: torch.cuda.memory_reserved(device),
        "allocated": lambda: torch.cuda.memory_allocated(device),
    }


def utilization(device: torch.device) -> float:
    """The share of the last sample period in which a GPU was busy, 0 to 1."""
    return torch.cuda.utilization(device) / 100
