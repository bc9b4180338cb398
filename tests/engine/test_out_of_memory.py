"""What happens when memory runs out: batches and slices are tried again smaller, and what had
failed is gone.
"""

from __future__ import annotations

import gc
import traceback
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from bilstm_server.engine.engine import Engine
from bilstm_server.engine.sequences import (
    SequenceInput,
    SequenceOutput,
)
from bilstm_server.engine.staging import Staged, StagedBatch
from bilstm_server.errors import DeviceLost, ModelError, OutOfMemory
from bilstm_server.model.device import device_errors
from bilstm_server.model.incremental.slices import SlicedRun
from bilstm_server.serving.loading import load_engine
from tests.engine.transferred import batched, sequences_for
from tests.support.servers import settings


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        torch.AcceleratorError("CUDA error: out of memory"),  # page-locked memory
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        MemoryError(),
    ],
    ids=repr,
)
def test_memory_that_ran_out(error: Exception) -> None:
    """Every way to say so is one error of the service, and the cause is kept."""
    with pytest.raises(OutOfMemory) as caught, device_errors():
        raise error
    assert caught.value.__cause__ is error


def test_memory_of_the_host_that_ran_out() -> None:
    """torch and numpy, asked for more than any machine has."""
    with pytest.raises(OutOfMemory), device_errors():
        torch.empty(2**60, dtype=torch.uint8)
    with pytest.raises(OutOfMemory), device_errors():
        np.empty(2**60, np.uint8)


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        ValueError("out of memory"),
    ],
    ids=repr,
)
def test_other_errors_pass(error: Exception) -> None:
    """What is no lack of memory stays what it is."""
    with pytest.raises(type(error)) as caught, device_errors():
        raise error
    assert caught.value is error


def test_lost_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error after which CUDA does not answer any more is no error of a batch."""
    illegal = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    def silent() -> None:
        raise illegal

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    with pytest.raises(torch.AcceleratorError), device_errors():
        raise illegal
    monkeypatch.setattr(torch.cuda, "synchronize", silent)
    with pytest.raises(DeviceLost), device_errors():
        raise illegal


class TightEngine(Engine):
    """Has memory for so many tokens, and notes how many staged batches are still there when one is
    computed, while somebody has the errors."""

    memory = 2

    def warm_up(self, batch_tokens: int = 0) -> None:
        self.staged: list[weakref.ref[Tensor]] = []
        self.kept: list[int] = []
        self.errors: list[OutOfMemory] = []

    def compute(self, staged: StagedBatch) -> list[SequenceOutput]:
        try:
            return super().compute(staged)
        except OutOfMemory as error:
            self.errors.append(error)
            raise

    def _encode(self, staged: Staged[SequenceInput]) -> dict[str, Tensor]:
        self.kept.append(sum(x() is not None for x in self.staged))
        self.staged.append(weakref.ref(staged.inputs[0]))
        if len(staged.inputs[0]) > self.memory:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super()._encode(staged)


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


class NarrowEngine(Engine):
    """Has memory for slices of so many steps."""

    memory = 512

    def advance(self, runs: Sequence[SlicedRun], steps: int) -> None:
        if len(runs) * steps > self.memory:
            raise OutOfMemory("out of memory")
        super().advance(runs, steps)


async def test_slices_grow_no_larger_than_memory(model_folder: Path) -> None:
    """A slice that does not fit is tried again with half the steps."""
    engine = NarrowEngine.load(model_folder, "cpu", "float32", "auto")
    outputs = await batched(engine, sequences_for(engine, [9_000]), max_whole_tokens=64)
    assert len(outputs) == 1


@pytest.mark.usefixtures("no_garbage_collection")
async def test_failed_batch_is_gone_before_its_halves(model_folder: Path) -> None:
    """What a batch that did not fit had on the device is free when its halves are computed."""
    engine = TightEngine.load(model_folder, "cpu", "float32", "auto")
    engine.warm_up()
    outputs = await batched(engine, sequences_for(engine, [1] * 8))
    assert len(outputs) == 8
    assert engine.kept == [0] * (1 + 2 + 4)
    assert len(engine.errors) == 1 + 2
    assert "in _encode" in "".join(traceback.format_exception(engine.errors[0]))


def test_model_that_does_not_fit(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server whose device has no memory for its model says so and does not start."""

    def warm_up(engine: Engine, batch_tokens: int) -> None:
        raise OutOfMemory("out of memory")

    monkeypatch.setattr(Engine, "warm_up", warm_up)
    with pytest.raises(ModelError, match=f"{model_folder}: the device's memory"):
        load_engine(model_folder, settings(device="cpu"))


def test_device_lost_while_loading(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server whose GPU is lost by a kernel that it tries says what to do, and does not start."""

    def warm_up(engine: Engine, batch_tokens: int) -> None:
        raise DeviceLost("the GPU is lost") from RuntimeError(
            "CUDA error: unspecified launch failure"
        )

    monkeypatch.setattr(Engine, "warm_up", warm_up)
    expected = "CUDA error: unspecified launch failure; --kernel reference may do"
    with pytest.raises(ModelError, match=f"{model_folder}: {expected}"):
        load_engine(model_folder, settings())


def test_bound_is_the_gpus(model_folder: Path) -> None:
    """`max_device_bytes` means nothing to a model on the CPU."""
    engine = load_engine(model_folder, settings(device="cpu", max_device_bytes=1))
    assert engine.run(sequences_for(engine, [3]))
