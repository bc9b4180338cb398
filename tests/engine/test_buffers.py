"""A batch goes to the device and comes back in one buffer, bit for bit, and what a caller still has
is not written over.
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bilstm_server.engine.engine import Engine
from bilstm_server.engine.sequences import (
    Array,
    BlockInput,
    SequenceInput,
    SequenceOutput,
)
from bilstm_server.engine.staging import Staged
from bilstm_server.engine.transfer import (
    ALIGNMENT,
    HostTransfer,
    Item,
    Layout,
    as_array,
    join,
    part,
    widest_first,
)
from tests.engine.transferred import (
    FORMS,
    TYPES,
    assert_same,
    outputs_outlive_their_batch,
    random_array,
)
from tests.support.lstms import examples, seeds
from tests.support.servers import write_model

shapes = st.lists(st.integers(0, 7), max_size=3).map(tuple)
types = st.sampled_from(TYPES)
result_types = st.sampled_from([dtype for dtype in TYPES if dtype.is_floating_point])


# -- one buffer ----------------------------------------------------------------------------------


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
@given(st.lists(shapes, min_size=1, max_size=6), result_types, seeds)
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
    tensors |= {"ids": torch.arange(5), "scores": torch.arange(6.0).double()}
    expected |= {"ids": np.arange(5, dtype=np.int32), "scores": np.arange(6.0)}
    tensors = widest_first(tensors)
    buffer = join(tensors).clone()
    address = buffer.data_ptr()
    found = part(buffer, tensors)
    del buffer
    gc.collect()
    assert found.keys() == expected.keys()
    start = address
    for name, array in found.items():
        assert_same(array, expected[name])
        assert array.flags.aligned
        if array.size:
            assert array.ctypes.data == start
        start += array.nbytes


def test_one_result_is_not_copied_before_it_is_sent() -> None:
    """Where there is one tensor, `join` gives its own memory."""
    states = torch.randn(7, 4)
    assert join({"states": states}).data_ptr() == states.data_ptr()


# -- on the CPU ----------------------------------------------------------------------------------


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


def test_outputs_outlive_their_batch(model_folder: Path) -> None:
    """What a caller still has is not written over by the batches that follow."""
    outputs_outlive_their_batch(Engine.load(model_folder, "cpu", "float32", "auto"))


class CountingEngine(Engine):
    """Notes in what ways it was asked to compute."""

    def _encode(self, staged: Staged[SequenceInput]) -> dict[str, Tensor]:
        self.ways.add("whole" if staged.hx is None else "whole, with states")
        return super()._encode(staged)

    def _encode_blocks(self, staged: Staged[BlockInput]) -> tuple[dict[str, Tensor], list[Any]]:
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
