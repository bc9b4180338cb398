"""Streams and copies of a GPU: uploads do not wait, nothing is read or written too early, and
results are the CPU's.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from bilstm_server.engine.engine import Engine
from bilstm_server.engine.sequences import (
    Array,
    BlockInput,
    SequenceInput,
    SequenceOutput,
)
from bilstm_server.engine.transfer import (
    CudaTransfer,
    Item,
)
from bilstm_server.errors import OutOfMemory
from bilstm_server.model.device import bound_memory
from tests.engine.transferred import (
    FORMS,
    TYPES,
    arrays_of,
    assert_same,
    batched,
    outputs_outlive_their_batch,
    random_array,
    sequences_for,
)
from tests.support.servers import write_model

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
    """Arrays of every type, empty ones too, go to a GPU and come back."""
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
    first_steps, then = sequence.steps_between(0, 7), sequence.steps_between(4, 12)
    states = frozenset({"states"})
    _, first = engine.run([sequence, BlockInput(first_steps, states, 3, None)])
    second, _ = engine.run([BlockInput(then, states, 0, first.carried), sequence])
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
    sequences = [SequenceInput((steps,), frozenset({"states"})) for _ in range(64)]
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
        assert close(output.arrays["states"], expected.arrays["states"], "float32")
