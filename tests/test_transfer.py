"""A batch on its way to the device and back, and what happens when memory runs out on it.

What packs and unpacks is pure and is tested on the CPU; streams and copies need a GPU.
"""

from __future__ import annotations

import asyncio
import gc
import traceback
import weakref
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import settings, write_model
from hypothesis import given
from hypothesis import strategies as st
from lstms import examples, seeds
from torch import Tensor

from bilstm_server.batching.batcher import Batcher
from bilstm_server.batching.device import Device
from bilstm_server.engine.engine import Engine
from bilstm_server.engine.sequences import (
    Array,
    BlockInput,
    SequenceInput,
    SequenceOutput,
)
from bilstm_server.engine.staging import Staged, StagedBatch
from bilstm_server.engine.transfer import (
    ALIGNMENT,
    CudaTransfer,
    HostTransfer,
    Item,
    Layout,
    as_array,
    join,
    part,
)
from bilstm_server.errors import DeviceLost, ModelError, OutOfMemory
from bilstm_server.metrics import Metrics
from bilstm_server.model.config import Output
from bilstm_server.model.device import bound_memory, device_errors
from bilstm_server.model.encoder import Encodings
from bilstm_server.model.incremental.slices import SlicedRun
from bilstm_server.serving.loading import load_engine
from bilstm_server.settings import QueueLimits

HANGS_AFTER_SECONDS = 60
TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int32)
EVERY = frozenset(Output)

shapes = st.lists(st.integers(0, 7), max_size=3).map(tuple)
types = st.sampled_from(TYPES)


def random_array(rng: np.random.Generator, shape: tuple[int, ...], dtype: torch.dtype) -> Array:
    """Any bits at all, NaNs among them."""
    like = as_array(torch.empty(0, dtype=dtype)).dtype
    size = int(np.prod(shape, dtype=np.int64)) * like.itemsize
    return np.frombuffer(rng.bytes(size), like).reshape(shape)


def assert_same(ours: Array, theirs: Array) -> None:
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    assert ours.tobytes() == theirs.tobytes()


# -- one buffer -------------------------------------------------------------------------------


@examples(200)
@given(st.lists(st.tuples(shapes, types), min_size=1, max_size=6), seeds)
def test_arrays_lie_in_one_buffer(
    forms: list[tuple[tuple[int, ...], torch.dtype]], seed: int
) -> None:
    """Whatever their shapes and types: written through its views, arrays are found, bit for bit,
    in those of a copy of the buffer; each begins where CUDA could have put it."""
    rng = np.random.default_rng(seed)
    arrays = [random_array(rng, shape, dtype) for shape, dtype in forms]
    layout = Layout(forms)
    buffer = torch.empty(layout.size, dtype=torch.uint8)
    for view, array in zip(layout.views(buffer), arrays, strict=True):
        np.copyto(as_array(view), array)
    found = layout.views(buffer.clone())
    for view, array, (_, dtype) in zip(found, arrays, forms, strict=True):
        assert view.dtype is dtype
        assert view.is_contiguous()
        assert view.storage_offset() * dtype.itemsize % ALIGNMENT == 0
        assert_same(as_array(view), array)


@examples(100)
@given(st.lists(shapes, min_size=1, max_size=6), types, seeds)
def test_results_come_back_in_one_buffer(
    forms: list[tuple[int, ...]], dtype: torch.dtype, seed: int
) -> None:
    """Joined and parted, each is what it was; they are views, which keep the buffer alive."""
    rng = np.random.default_rng(seed)
    expected = {str(i): random_array(rng, shape, dtype) for i, shape in enumerate(forms)}
    tensors = {}
    for name, array in expected.items():
        tensors[name] = torch.empty(array.shape, dtype=dtype)
        np.copyto(as_array(tensors[name]), array)
    buffer = join(tensors).clone()
    address = buffer.data_ptr()
    found = part(buffer, tensors)
    del buffer
    gc.collect()
    assert found.keys() == expected.keys()
    start = address
    for name, array in found.items():
        assert_same(array, expected[name])
        if array.size:
            assert array.ctypes.data == start
        start += array.nbytes


def test_one_result_is_not_copied_before_it_is_sent() -> None:
    """Where there is one tensor, `join` gives its own memory."""
    states = torch.randn(7, 4)
    assert join({"states": states}).data_ptr() == states.data_ptr()


# -- on the CPU -------------------------------------------------------------------------------


def test_nothing_is_copied_on_the_cpu() -> None:
    """What an item writes is what is computed with, and a result is the tensor's memory."""
    written: list[Array] = []
    transfer = HostTransfer()
    upload = transfer.upload([Item((2, 3), dtype, written.append) for dtype in TYPES])
    upload.make_stream_wait()
    for tensor, array, dtype in zip(upload.tensors, written, TYPES, strict=True):
        assert (tensor.dtype, tensor.shape) == (dtype, (2, 3))
        assert np.shares_memory(as_array(tensor), array)
    (tensor, *_) = upload.tensors
    with transfer.computing():
        found = transfer.download({"states": tensor})
    assert np.shares_memory(found["states"], as_array(tensor))


def sequences_for(engine: Engine, lengths: Sequence[int], seed: int = 0) -> list[SequenceInput]:
    """Every second one with an initial state."""
    config, rng = engine.config, np.random.default_rng(seed)
    outputs = EVERY - (frozenset() if config.head else {Output.LOGITS})
    widths = (config.state_size, config.hidden_size)

    def draw(*shape: int) -> Array:
        return rng.standard_normal(shape, np.float32)

    def steps(count: int) -> Array:
        if config.embedding is not None:
            return rng.integers(config.embedding.num_embeddings, size=count)
        return draw(count, config.input_size)

    def state() -> tuple[Array, Array]:
        h_0, c_0 = (draw(config.state_rows, width) for width in widths)
        return h_0, c_0

    return [
        SequenceInput(steps(count), outputs, state() if index % 2 else None)
        for index, count in enumerate(lengths)
    ]


def arrays_of(output: SequenceOutput) -> dict[str, Array]:
    arrays: dict[str, Array] = {str(name): array for name, array in output.arrays.items()}
    if output.state is not None:
        arrays["hidden"], arrays["cell"] = output.state
    return arrays


def outputs_outlive_their_batch(engine: Engine) -> None:
    (kept, *_) = engine.run(sequences_for(engine, [5, 3, 70]))
    before = {name: array.copy() for name, array in arrays_of(kept).items()}
    for seed in range(1, 20):
        engine.run(sequences_for(engine, [5, 3, 70], seed))
    for name, array in arrays_of(kept).items():
        assert_same(array, before[name])


def test_outputs_outlive_their_batch(model_folder: Path) -> None:
    """What a caller still has is not written over by the batches that follow."""
    outputs_outlive_their_batch(Engine.load(model_folder, "cpu", "float32", "auto"))


FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "head": {"head": {"num_classes": 3, "pooling": "max"}},
    "embedding": {"embedding": {"num_embeddings": 20}},
    "one direction": {"bidirectional": False},
    "projection": {"proj_size": 4, "bias": False},
}


class CountingEngine(Engine):
    """Notes in what ways it was asked to compute."""

    def _encode(self, staged: Staged[SequenceInput]) -> Encodings:
        self.ways.add("whole" if staged.hx is None else "whole, with states")
        return super()._encode(staged)

    def _encode_blocks(self, staged: Staged[BlockInput]) -> tuple[Tensor, list[Any]]:
        carried = any(block.carried for block in staged.sequences)
        self.ways.add("carried block" if carried else "first block")
        return super()._encode_blocks(staged)

    def finish(self, run: Any, sequence: SequenceInput) -> SequenceOutput:
        self.ways.add("slices")
        return super().finish(run, sequence)

    def warm_up(self, batch_tokens: int = 0) -> None:
        self.ways: set[str] = set()
        super().warm_up()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_all_ways_are_warm(tmp_path: Path, form: str, dtype: str) -> None:
    """Before the first request every way to compute has been gone once, with any model."""
    engine = CountingEngine.load(write_model(tmp_path, **FORMS[form]), "cpu", dtype, "reference")
    engine.warm_up()
    assert engine.ways == {
        "whole",
        "whole, with states",
        "first block",
        "carried block",
        "slices",
    }


# -- out of memory ----------------------------------------------------------------------------


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

    def _encode(self, staged: Staged[SequenceInput]) -> Encodings:
        self.kept.append(sum(x() is not None for x in self.staged))
        self.staged.append(weakref.ref(staged.x))
        if len(staged.x) > self.memory:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super()._encode(staged)


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


async def batched(
    engine: Engine, sequences: Sequence[SequenceInput], **more: int
) -> list[SequenceOutput]:
    """The sequences' outputs by way of a `Batcher`, in one batch if memory allows."""
    tokens = sum(sequence.tokens for sequence in sequences)
    limits = QueueLimits(
        max_batch_tokens=tokens, max_batch_sequences=len(sequences), max_queue_tokens=tokens, **more
    )
    with Device() as device:
        batcher = Batcher(engine, limits, device, Metrics().model("m"))
        running = asyncio.create_task(batcher.run())
        async with asyncio.timeout(HANGS_AFTER_SECONDS):
            results = await batcher.submit(sequences)
            batcher.drain()
            await running
    return [result.output for result in results]


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


# -- on a GPU ---------------------------------------------------------------------------------

LENGTHS = [5, 1, 130, 64, 65, 7]
LONG_CYCLES = 1_000_000_000  # half a second or so


@pytest.fixture
def cuda() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device("cuda", torch.cuda.current_device())


def item(value: int, size: int = 1 << 20) -> Item:
    return Item((size,), torch.int32, lambda array: np.copyto(array, value))


@pytest.mark.gpu
def test_uploads_do_not_wait_for_what_computes(cuda: torch.device) -> None:
    """While the device computes one batch, the next one gets there."""
    transfer = CudaTransfer(cuda)
    transfer.upload([item(0)])  # allocates memory, which may wait
    torch.cuda.synchronize()
    with transfer.computing():
        torch.cuda._sleep(LONG_CYCLES)  # type: ignore[no-untyped-call]
        computed = torch.cuda.current_stream().record_event()
    upload = transfer.upload([item(1)])
    assert upload.copied is not None
    upload.copied.synchronize()
    assert not computed.query()
    torch.cuda.synchronize()


@pytest.mark.gpu
def test_memory_that_is_still_read_is_not_written_to(cuda: torch.device) -> None:
    """An upload that is dropped before the device has come to read it is read as it was."""
    transfer = CudaTransfer(cuda)
    with transfer.computing():
        torch.cuda._sleep(LONG_CYCLES)  # type: ignore[no-untyped-call]
        upload = transfer.upload([item(1)])
        upload.make_stream_wait()
        read = upload.tensors[0].clone()
        del upload
        later = [transfer.upload([item(2)]) for _ in range(8)]
        found = transfer.download({"read": read})["read"]
    assert np.all(found == 1)
    for upload in later:
        with transfer.computing():
            upload.make_stream_wait()
            found = transfer.download({"read": upload.tensors[0]})["read"]
        assert np.all(found == 2)


@pytest.mark.gpu
def test_arrays_go_and_come_back(cuda: torch.device) -> None:
    """Of every type, empty ones too."""
    rng = np.random.default_rng(0)
    transfer = CudaTransfer(cuda)
    for shape in ((3, 5), (0,), (1,), (1000, 7)):
        for dtype in TYPES:
            array = random_array(rng, shape, dtype)
            items = [Item(shape, dtype, partial(np.copyto, src=array))] * 3
            upload = transfer.upload([item(1, size=3), *items])
            with transfer.computing():
                upload.make_stream_wait()
                _, *copies = upload.tensors
                found = transfer.download({str(i): copy for i, copy in enumerate(copies)})
            for copy in found.values():
                assert_same(copy, array)


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
def test_outputs_of_a_gpu_outlive_their_batch(model_folder: Path) -> None:
    """Page-locked memory is used again, but not what a caller still has."""
    outputs_outlive_their_batch(Engine.load(model_folder, "cuda", "float32", "auto"))


def sliced(engine: Engine, sequence: SequenceInput) -> SequenceOutput:
    run = engine.begin(sequence)
    while not run.done:
        engine.advance([run], 64)
    return engine.finish(run, sequence)


def blocks(engine: Engine, sequence: SequenceInput) -> list[SequenceOutput]:
    """Two of them, beside the whole sequence in one batch."""
    steps = sequence.rows(0, 12)
    _, first = engine.run([sequence, BlockInput(steps[:7], 3, None)])
    second, _ = engine.run([BlockInput(steps[4:], 0, first.carried), sequence])
    return [SequenceOutput(output.arrays) for output in (first, second)]


def close(ours: Array, theirs: Array, dtype: str) -> bool:
    difference = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
    if dtype == "float32":
        return bool(np.all(difference < 2e-5))
    return bool(np.linalg.norm(difference) <= 3e-2 * np.linalg.norm(theirs.astype(np.float64)))


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("kernel", ["auto", "reference"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("form", FORMS)
def test_same_as_on_the_cpu(tmp_path: Path, form: str, dtype: str, kernel: str) -> None:
    """In a batch, in slices and in live blocks, with states and without, a GPU gives what the CPU
    gives."""
    folder = write_model(tmp_path, hidden_size=32, **FORMS[form])
    judge = Engine.load(folder, "cpu", "float32", "reference")
    engine = Engine.load(folder, "cuda", dtype, kernel)
    engine.warm_up()
    sequences = sequences_for(engine, LENGTHS)
    pairs = list(zip(engine.run(sequences), judge.run(sequences), strict=True))
    pairs += [(sliced(engine, s), sliced(judge, s)) for s in (sequences[2], sequences[3])]
    pairs += zip(blocks(engine, sequences[2]), blocks(judge, sequences[2]), strict=True)
    for output, expected in pairs:
        ours, theirs = arrays_of(output), arrays_of(expected)
        assert ours.keys() == theirs.keys()
        for name, array in ours.items():
            assert array.shape == theirs[name].shape
            assert close(array, theirs[name], dtype), name


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("form", FORMS)
def test_nothing_waits_on_the_way(tmp_path: Path, form: str) -> None:
    """From a batch's arrays to its results the one wait is for the results."""
    engine = Engine.load(write_model(tmp_path, **FORMS[form]), "cuda", "float32", "auto")
    if engine.kernel != "gpu":
        pytest.skip("needs the gpu kernel: the reference one waits for its rows' order")
    engine.warm_up()
    sequences = sequences_for(engine, LENGTHS)
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        engine.run(sequences)
    finally:
        torch.cuda.set_sync_debug_mode(mode)


@pytest.mark.gpu
async def test_bound_halves_a_batch(cuda: torch.device, tmp_path: Path) -> None:
    """A batch that `max_device_bytes` has no room for is out of memory, and comes in halves."""
    folder = write_model(tmp_path, input_size=32, hidden_size=256, num_layers=1)
    engine = Engine.load(folder, "cuda", "float32", "auto")
    engine.warm_up()
    steps = np.random.default_rng(0).standard_normal((4096, 32), np.float32)
    sequences = [SequenceInput(steps, frozenset({Output.STATES})) for _ in range(64)]
    (expected,) = engine.run(sequences[:1])
    torch.cuda.empty_cache()
    try:
        # The states of all are 512 MiB.
        bound_memory(cuda, torch.cuda.memory_reserved(cuda) + 480 * 2**20)
        with pytest.raises(OutOfMemory):
            engine.run(sequences)
        outputs = await batched(engine, sequences)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, cuda)
    assert len(outputs) == len(sequences)
    for output in outputs:
        assert close(output.arrays[Output.STATES], expected.arrays[Output.STATES], "float32")
