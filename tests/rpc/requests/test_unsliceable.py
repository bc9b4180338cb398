"""An output that can't be computed in slices: GetModel says why, and so do refusals."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from bilstm.v1 import encoder_pb2_grpc
from bilstm_server.model.layers.pooling import MaxConfig
from tests.support.servers import RunningServer, settings, write_model
from tests.support.waiting import HANGS_AFTER_SECONDS

REASON = "it reads all steps at once"
WHOLE = 128  # steps


@pytest.fixture
def stub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[encoder_pb2_grpc.EncoderServiceStub]:
    monkeypatch.setattr(MaxConfig, "unsliceable", property(lambda self: REASON))
    model = write_model(tmp_path / "model")
    running = RunningServer(settings(model=[("m", model)], max_whole_tokens=WHOLE))
    with grpc.insecure_channel(running.target) as channel:
        yield encoder_pb2_grpc.EncoderServiceStub(channel)
    running.close()


def request(steps: int, output: pb.Output.ValueType) -> pb.EncodeRequest:
    x = np.zeros((steps, 5), np.float32)
    return pb.EncodeRequest(sequences=[tensors.encode(x)], outputs=[output])


def test_said_by_get_model(stub: encoder_pb2_grpc.EncoderServiceStub) -> None:
    """GetModel says why of the output, and nothing of others."""
    model = stub.GetModel(pb.GetModelRequest()).model
    reasons = {info.name: info.unsliceable for info in model.output_infos}
    assert reasons.pop("max") == f"layer max: {REASON}"
    assert set(reasons.values()) == {""}
    assert model.unsliceable == ""  # other outputs can be


def test_a_long_one_is_refused(stub: encoder_pb2_grpc.EncoderServiceStub) -> None:
    """Beyond what is computed whole the output is refused with the reason; others are not."""
    with pytest.raises(grpc.RpcError) as refusal:
        stub.Encode(request(WHOLE + 1, pb.OUTPUT_MAX), timeout=HANGS_AFTER_SECONDS)
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert REASON in str(refusal.value.details())
    for good in (request(WHOLE, pb.OUTPUT_MAX), request(WHOLE + 1, pb.OUTPUT_MEAN)):
        assert stub.Encode(good, timeout=HANGS_AFTER_SECONDS).encodings


def test_a_long_one_of_a_stream_is_refused(stub: encoder_pb2_grpc.EncoderServiceStub) -> None:
    """In a stream its sequence alone is refused, with the reason."""
    options = pb.StreamOptions(outputs=[pb.OUTPUT_MAX])
    chunks = [
        pb.SequenceChunk(
            id=number, steps=tensors.encode(np.zeros((steps, 5), np.float32)), last=True
        )
        for number, steps in enumerate((WHOLE + 1, WHOLE))
    ]
    requests = [pb.EncodeStreamRequest(options=options), pb.EncodeStreamRequest(chunks=chunks)]
    replies = stub.EncodeStream(iter(requests), timeout=HANGS_AFTER_SECONDS)
    errors = {chunk.id: chunk.error.message for reply in replies for chunk in reply.chunks}
    assert REASON in errors[0]
    assert errors[1] == ""
