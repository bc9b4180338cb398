"""Requests with inputs and outputs by name, as any client may send them, good and bad."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from tests.rpc.requests.by_hand import TIMEOUT_SECONDS, Wire, connect, violation
from tests.support.graphs import KINDS, TAGS, WIDTH, sentence, serve_graphs


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    """A server of models with inputs and outputs of their own, the tagger first."""
    running = serve_graphs(tmp_path_factory.mktemp("graphs"))
    yield from connect(running.target)
    running.close()


def inputs(**arrays: Any) -> list[pb.NamedTensor]:
    return [
        pb.NamedTensor(name=name, tensor=tensors.encode(np.asarray(array)))
        for name, array in arrays.items()
    ]


def request(*sequences: list[pb.NamedTensor], **fields: Any) -> pb.EncodeRequest:
    named = [pb.NamedInputs(inputs=sequence) for sequence in sequences]
    return pb.EncodeRequest(named_sequences=named, **fields)


GOOD = inputs(**sentence(7))
FEATURES = tensors.encode(np.zeros((7, WIDTH), np.float32))


def test_named_results(graphs: Wire) -> None:
    """Inputs come in any order. Labels are INT32, [T] or [], and the reply says what each output
    is: its labels have names, columns have none."""
    outputs = ["labels", "kind", "logits"]
    asked = request(GOOD[::-1], output_names=outputs, output_data_type=pb.DATA_TYPE_FLOAT16)
    reply = graphs.stub.Encode(asked, timeout=TIMEOUT_SECONDS)
    (encoding,) = reply.encodings
    named = {named.name: tensors.decode(named.tensor) for named in encoding.named}
    assert {name: (a.shape, a.dtype) for name, a in named.items()} == {
        "labels": ((7,), np.dtype("<i4")),
        "kind": ((), np.dtype("<i4")),
    }
    assert (list(encoding.logits.shape), encoding.logits.data_type) == ([7, len(TAGS)], 2)
    infos = {info.name: info for info in reply.outputs}
    assert infos == {
        "logits": pb.OutputInfo(name="logits", per_step=True, width=len(TAGS)),
        "labels": pb.OutputInfo(name="labels", per_step=True, ids=len(TAGS), labels=TAGS),
        "kind": pb.OutputInfo(name="kind", ids=len(KINDS), labels=KINDS),
    }


def test_outputs_by_number_and_by_name(graphs: Wire) -> None:
    """What is asked for either way comes, and once."""
    reply = graphs.stub.Encode(
        request(GOOD, outputs=[pb.OUTPUT_LOGITS], output_names=["logits", "upos", "state"]),
        timeout=TIMEOUT_SECONDS,
    )
    (encoding,) = reply.encodings
    assert {field.name for field, _ in encoding.ListFields()} == {"logits", "named", "state"}
    assert [named.name for named in encoding.named] == ["upos"]
    assert {info.name for info in reply.outputs} == {"logits", "upos"}


BAD: dict[str, tuple[str, pb.EncodeRequest]] = {
    "both kinds": ("sequences", request(GOOD, sequences=[FEATURES])),
    "no names": ("sequences", pb.EncodeRequest(sequences=[FEATURES])),
    "no inputs": ("named_sequences[1].tokens", request(GOOD, [])),
    "one missing": ("named_sequences[0].features", request(GOOD[:1])),
    "one twice": ("named_sequences[0]", request([*GOOD, GOOD[0]])),
    "unknown": ("named_sequences[0]", request([*GOOD, *inputs(feature=[1])])),
    "no name": ("named_sequences[0]", request([*GOOD, pb.NamedTensor(tensor=FEATURES)])),
    "no tensor": (
        "named_sequences[0].features.data_type",
        request([GOOD[0], pb.NamedTensor(name="features")]),
    ),
    "lengths": (
        "named_sequences[1].features.shape",
        request(GOOD, inputs(tokens=[1, 2], features=np.zeros((3, WIDTH), np.float32))),
    ),
    "no steps": (
        "named_sequences[0].tokens.shape",
        request(inputs(tokens=np.zeros(0, int), features=np.zeros((0, WIDTH), np.float32))),
    ),
    "padding": (
        "named_sequences[0].tokens.data",
        request(inputs(tokens=[0], features=np.zeros((1, WIDTH), np.float32))),
    ),
    "unknown output": ("output_names[1]", request(GOOD, output_names=["labels", "label"])),
    "empty output": ("output_names[0]", request(GOOD, output_names=[""])),
    "output that it lacks": ("outputs[0]", request(GOOD, outputs=[pb.OUTPUT_MEAN])),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_requests(case: str, graphs: Wire) -> None:
    """What is wrong is refused by its field, which has the input's name."""
    field, bad = BAD[case]
    error: Any = graphs.refused(bad)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error.details()
    assert violation(error)[0] == field


CHUNKS: dict[str, tuple[str, pb.SequenceChunk]] = {
    "both kinds": ("steps", pb.SequenceChunk(steps=FEATURES, inputs=GOOD)),
    "no names": ("steps", pb.SequenceChunk(steps=FEATURES)),
    "one missing": ("features", pb.SequenceChunk(inputs=GOOD[:1])),
    "one twice": ("inputs", pb.SequenceChunk(inputs=[*GOOD, GOOD[0]])),
    "width": (
        "features.shape",
        pb.SequenceChunk(inputs=inputs(tokens=[1], features=np.zeros((1, 1), np.float32))),
    ),
}


@pytest.mark.parametrize("case", CHUNKS)
def test_bad_chunks(case: str, graphs: Wire) -> None:
    """In a stream such a sequence alone is refused."""
    field, bad = CHUNKS[case]
    bad.last = True
    chunks = [bad, pb.SequenceChunk(id=1, inputs=GOOD, last=True)]
    opening = pb.EncodeStreamRequest(options=pb.StreamOptions(output_names=["kind"]))
    requests = iter([opening, pb.EncodeStreamRequest(chunks=chunks)])
    opened, *replies = graphs.stub.EncodeStream(requests, timeout=TIMEOUT_SECONDS)
    assert [info.name for info in opened.opened.outputs] == ["kind"]
    error, good = (chunk for reply in replies for chunk in reply.chunks)
    assert (error.id, error.error.code, error.error.field) == (0, 3, field)
    assert [named.name for named in good.encoding.named] == ["kind"]
