"""What a server says of its models, and which version of a model a caller gets."""

from __future__ import annotations

from pathlib import Path

import grpc
import numpy as np
import pytest

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from bilstm.v1 import encoder_pb2_grpc
from tests.rpc.judged import MODELS, Judge, Service, arrays, numbers, outputs_of
from tests.support.servers import RunningServer, plain_config, settings, write_model


def described(name: str, version: str, judge: Judge) -> pb.Model:
    config = judge.config
    limits = settings()
    return pb.Model(
        name=name,
        version=version,
        input_size=config.input_size,
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
        proj_size=config.proj_size,
        bidirectional=config.bidirectional,
        num_embeddings=config.embedding.num_embeddings if config.embedding else 0,
        num_classes=config.head.num_classes if config.head else 0,
        labels=config.labels,
        outputs=numbers(outputs_of(config)),  # type: ignore[arg-type]
        limits=pb.Limits(
            max_message_bytes=limits.max_message_bytes,
            max_sequence_tokens=limits.max_sequence_tokens,
            max_stream_bytes=limits.max_stream_bytes,
            max_stream_sequences=limits.max_stream_sequences,
            max_request_sequences=limits.max_request_sequences,
            max_request_tokens=limits.max_batch_tokens,
        ),
        inputs=[
            pb.InputInfo(name="tokens", ids=config.embedding.num_embeddings)
            if config.embedding
            else pb.InputInfo(name="features", width=config.input_size)
        ],
        output_infos=[
            pb.OutputInfo(
                name=output,
                per_step=output == "states",
                width=config.head.num_classes
                if output == "logits" and config.head
                else config.encoding_size,
                labels=config.labels if output == "logits" else (),
                not_live="" if output == "states" else "it is one of the whole sequence",
            )
            for output in outputs_of(config)
            if output != "state"
        ],
        min_steps=1,
    )


def test_list_models(service: Service) -> None:
    """ListModels describes every model, in the order in which they were named."""
    models = service.stub.ListModels(pb.ListModelsRequest()).models
    assert list(models) == [described(n, "1", judge) for n, judge in service.judges.items()]


@pytest.mark.parametrize("model", ["", *MODELS])
def test_get_model(service: Service, model: str) -> None:
    """GetModel describes one model; without a name, the first."""
    name = model or next(iter(MODELS))
    got = service.stub.GetModel(pb.GetModelRequest(model=model)).model
    assert got == described(name, "1", service.judges[name])


@pytest.mark.parametrize(("model", "version"), [("nobody", ""), ("mean", "2"), ("", "2")])
def test_get_unknown_model(service: Service, model: str, version: str) -> None:
    """A model or version that is not there is NOT_FOUND."""
    with pytest.raises(grpc.RpcError) as refusal:
        service.stub.GetModel(pb.GetModelRequest(model=model, version=version))
    assert refusal.value.code() is grpc.StatusCode.NOT_FOUND


def test_versions(tmp_path: Path) -> None:
    """Of two versions of a model the newest is the default, whatever their order, and each can
    be asked for."""
    folders = [
        write_model(tmp_path / str(version), seed=version, version=version)
        for version in (2, 10, 9)
    ]
    running = RunningServer(settings(model=[("m", folder) for folder in folders]))
    try:
        with grpc.insecure_channel(running.target) as channel:
            stub = encoder_pb2_grpc.EncoderServiceStub(channel)
            models = stub.ListModels(pb.ListModelsRequest()).models
            assert [model.version for model in models] == ["10", "9", "2"]
            assert stub.GetModel(pb.GetModelRequest()).model.version == "10"
            x = np.ones((3, 5), "<f4")
            for asked, folder in (("", folders[1]), ("2", folders[0]), ("9", folders[2])):
                reply = stub.Encode(
                    pb.EncodeRequest(model="m", version=asked, sequences=[tensors.encode(x)])
                )
                assert reply.version == folder.name
                expected = Judge.of(folder, plain_config()).encode(x)["states"]
                got = arrays(reply.encodings[0])["states"]
                np.testing.assert_allclose(got, expected, atol=1e-5)
    finally:
        running.close()
