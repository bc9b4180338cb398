"""Rows of outputs that come in parts: each once, as many as there must be, and of one model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from bilstm_client import ServerError, Unavailable
from bilstm_client._calls.options import EncodeOptions
from bilstm_client._streams.options import StreamOptions
from bilstm_client._streams.stream import Stream
from tests.client.clients import AnyClient
from tests.client.streams.sources import X
from tests.support.fake_streams import INFOS, Break, FakeServer, sums


@pytest.mark.parametrize("reply_steps", [1, 3, 1_000])
@pytest.mark.parametrize("replies", [2, 3, 4, 6])
def test_rows_of_every_output(
    reply_steps: int, replies: int, faked: AnyClient, fake: FakeServer, quick: None
) -> None:
    """Whatever rows had come before the server was lost, each of every output comes once, also of
    those that have fewer rows than steps."""
    fake.reply_steps = reply_steps
    outputs = ["states", "labels", "halves"]
    expected = [np.arange(7) % 2, np.arange(7)[::2]]
    fake.breaks = [Break(replies=replies), Break(replies=replies)]
    (encoding,) = faked.encode_stream([X], outputs=outputs)
    for name, rows in zip(outputs, [sums(X), *expected], strict=True):
        np.testing.assert_array_equal(encoding[name], rows)
    assert encoding.label_names == ("even", "odd")
    fake.reply_steps = 2
    fake.breaks = [Break(replies=replies)]
    chunks = list(faked.encode_chunks([X], outputs=["labels", "halves", "final"]))
    for name, rows in zip(outputs[1:], expected, strict=True):
        np.testing.assert_array_equal(np.concatenate([chunk[name] for chunk in chunks]), rows)
    assert chunks[0].label_names == ("even", "odd")


def test_rows_of_another_version(faked: AnyClient, fake: FakeServer, quick: None) -> None:
    """No row of one version of a model is joined to those of another."""
    fake.reply_steps, fake.versions = 2, ["1", "2"]
    fake.breaks = [Break(replies=3)]
    (encoding,) = faked.encode_stream([X], outputs=["labels", "halves"])
    np.testing.assert_array_equal(encoding.labels, np.arange(7) % 2)
    fake.versions, fake.breaks = ["2", "3"], [Break(replies=3)]
    *_, last = faked.encode_chunks([X], outputs=["labels", "halves"], on_error="return")
    assert isinstance(last.error, Unavailable)
    assert "had begun with fake version 2" in str(last.error)


def labels(rows: int, last: bool = True, **fields: Any) -> pb.EncodingChunk:
    """A part of a reply to the stream's only sequence."""
    named = pb.NamedTensor(name="labels", tensor=tensors.encode(np.zeros(rows, "<i4")))
    return pb.EncodingChunk(encoding=pb.Encoding(named=[named]), last=last, **fields)


HALVES = pb.OutputInfo(name="labels", per_step=True, ids=3, windows=INFOS["halves"].windows)
SPARSE = pb.OutputInfo(name="labels", per_step=True, ids=3, sparse=True)
WHOLE = pb.OutputInfo(name="labels", ids=3)
# What the server says of the labels of 7 steps, what comes of them, and what is wrong with it.
REPLIES: dict[str, tuple[pb.OutputInfo, list[pb.EncodingChunk], str]] = {
    "all": (INFOS["labels"], [labels(7)], ""),
    "in parts": (INFOS["labels"], [labels(3, False), labels(4, first_step=3)], ""),
    "too few": (INFOS["labels"], [labels(6)], "labels ended after row 6"),
    "too many": (INFOS["labels"], [labels(8)], "labels of steps that it has not"),
    "not those that follow": (INFOS["labels"], [labels(3, False), labels(4)], "after 3 steps"),
    "every second": (HALVES, [labels(2, False), labels(2, first_step=3)], ""),
    "too few of those": (HALVES, [labels(3)], "labels ended after row 3"),
    "too many of those": (HALVES, [labels(5)], "labels of steps that it has not"),
    "some": (SPARSE, [labels(0, False), labels(2, first_step=3)], ""),
    "more than some": (SPARSE, [labels(8)], "labels of steps that it has not"),
    "none": (SPARSE, [labels(0)], ""),
    "of the sequence": (WHOLE, [labels(3, first_step=9)], ""),
}


@pytest.mark.parametrize("case", REPLIES)
def test_as_many_as_the_server_says(case: str) -> None:
    """Rows are joined to as many as the server says that a sequence of so many steps has; another
    number is a broken reply."""
    info, chunks, wrong = REPLIES[case]
    encode = EncodeOptions.of("labels", "float32", "", "")
    stream = Stream(StreamOptions.of(encode), 30)
    stream.add(X)
    sending = stream.begin_call()
    entry = stream.take(sending)
    assert entry is not None
    list(sending.array(entry))
    stream.receive(pb.EncodeStreamResponse(opened=pb.StreamOpened(outputs=[info])), 0)
    reply = pb.EncodeStreamResponse(chunks=chunks)
    if wrong:
        with pytest.raises(ServerError, match=f"is broken: .*{wrong}"):
            stream.receive(reply, 0)
        return
    ((_, encoding),) = stream.receive(reply, 0)
    rows = sum(chunk.encoding.named[0].tensor.shape[0] for chunk in chunks)
    assert encoding.labels.shape == (rows,)
