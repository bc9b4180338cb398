"""What is served, over the wire, judged by torch.nn.LSTM; and what a server says of itself:
its models, its health, its reflection.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import ml_dtypes
import numpy as np
import pytest
import torch
from conftest import RunningServer, settings, write_model
from engines import HANGS_AFTER_SECONDS, until
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch import nn

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from bilstm.v1 import encoder_pb2_grpc
from bilstm_server.app import App
from bilstm_server.engine.engine import Engine
from bilstm_server.metrics import Metrics
from bilstm_server.model.config import ModelConfig
from bilstm_server.model.storage.folder import load_model
from bilstm_server.rpc.flow.receiving import Receiving
from bilstm_server.rpc.flow.untaken import UntakenReplies
from bilstm_server.rpc.interceptors.chain import InterceptorChain
from bilstm_server.rpc.interceptors.decoding import Decoding
from bilstm_server.rpc.interceptors.method import Layer
from bilstm_server.rpc.interceptors.open_streams import OpenStreams
from bilstm_server.rpc.interceptors.outcomes import Outcomes
from bilstm_server.serving.loading import load_engine
from bilstm_server.settings import ReceiveLimits, ReplyLimits, Settings

POOLINGS = ("last", "final", "mean", "max")
OUTPUTS = ("states", "final", "mean", "max", "logits", "state")
INPUT_TYPES = [np.dtype(t) for t in ("<f4", "<f2", ml_dtypes.bfloat16)]
REPLY_TYPES: dict[int, float] = {  # and their precision
    pb.DATA_TYPE_FLOAT32: 1e-5,
    pb.DATA_TYPE_FLOAT16: 1e-3,
    pb.DATA_TYPE_BFLOAT16: 8e-3,
}
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICES = {
    "bilstm.v1.EncoderService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
}

Array = np.ndarray[Any, Any]
Expected = dict[str, Array]

# What is served: four poolings, two versions, one direction, a projection, token ids.
MODELS: dict[str, dict[str, Any]] = {
    **{p: {"head": {"num_classes": 3, "pooling": p}, "seed": i} for i, p in enumerate(POOLINGS)},
    "forward": {"bidirectional": False, "seed": 10, "head": {"num_classes": 4}},
    "projected": {
        "proj_size": 4,
        "seed": 11,
        "bias": False,
        "head": {"num_classes": 2, "pooling": "final", "bias": False},
    },
    "deep": {"num_layers": 3, "hidden_size": 3, "input_size": 2, "seed": 12},
    "tokens": {"embedding": {"num_embeddings": 20}, "seed": 13, "head": {"num_classes": 3}},
}


@dataclass(frozen=True)
class Judge:
    """A model's weights in torch's own modules, in float64."""

    config: ModelConfig
    lstm: nn.LSTM
    embedding: torch.Tensor | None
    head: nn.Linear | None

    @classmethod
    def of(cls, folder: Path) -> Judge:
        weights = {k: v.double() for k, v in load_model(folder).state_dict().items()}
        config = load_model(folder).config
        lstm = nn.LSTM(
            config.input_size,
            config.hidden_size,
            config.num_layers,
            bias=config.bias,
            bidirectional=config.bidirectional,
            proj_size=config.proj_size,
        ).double()
        lstm.load_state_dict(
            {k.removeprefix("lstm."): v for k, v in weights.items() if k.startswith("lstm.")}
        )
        head = None
        if config.head:
            head = nn.Linear(
                config.encoding_size, config.head.num_classes, bias=config.head.bias
            ).double()
            head.load_state_dict(
                {k.removeprefix("head."): v for k, v in weights.items() if k.startswith("head.")}
            )
        return cls(config, lstm, weights.get("embedding.weight"), head)

    @torch.no_grad()
    def encode(self, x: Array, state: tuple[Array, Array] | None = None) -> Expected:
        """Every output of one sequence."""
        steps = (
            torch.from_numpy(x.astype(np.float64))
            if self.embedding is None
            else self.embedding[torch.from_numpy(x.astype(np.int64))]
        )
        hx = None if state is None else tuple(torch.from_numpy(s.astype(np.float64)) for s in state)
        y, (h_n, c_n) = self.lstm(steps, hx)
        width = y.shape[1] // self.config.num_directions
        pooled = {
            "last": y[-1],
            "final": torch.cat([y[-1, :width], y[0, width:]]),
            "mean": y.mean(0),
            "max": y.max(0).values,
        }
        expected = {"states": y, "hidden": h_n, "cell": c_n}
        expected |= {name: pooled[name] for name in ("final", "mean", "max")}
        if self.head and self.config.head:
            expected["logits"] = self.head(pooled[self.config.head.pooling.value])
        return {name: value.numpy() for name, value in expected.items()}


@dataclass(frozen=True)
class Service:
    """A server of MODELS, and the judges of what it gives."""

    target: str
    stub: Any
    judges: dict[str, Judge]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    root = tmp_path_factory.mktemp("served")
    folders = {name: write_model(root / name, **config) for name, config in MODELS.items()}
    running = RunningServer(settings(model=list(folders.items())))
    with grpc.insecure_channel(running.target) as channel:
        stub = encoder_pb2_grpc.EncoderServiceStub(channel)
        judges = {name: Judge.of(folder) for name, folder in folders.items()}
        yield Service(running.target, stub, judges)
    running.close()


def outputs_of(config: ModelConfig) -> list[str]:
    return [name for name in OUTPUTS if config.head or name != "logits"]


def numbers(names: Sequence[str]) -> list[int]:
    return [pb.Output.Value(f"OUTPUT_{name.upper()}") for name in names]


def draw(config: ModelConfig, steps: int, seed: int = 0) -> Array:
    """A sequence that the model takes."""
    generator = np.random.default_rng([seed, steps])
    if config.embedding:
        return generator.integers(0, config.embedding.num_embeddings, steps)
    return generator.standard_normal((steps, config.input_size), np.float32)


def arrays(encoding: pb.Encoding) -> Expected:
    """The tensors of a reply as float64, the state as `hidden` and `cell`."""
    present = {field.name: value for field, value in encoding.ListFields()}
    state = present.pop("state", None)
    if state is not None:
        present |= {"hidden": state.hidden, "cell": state.cell}
    return {name: tensors.decode(value).astype(np.float64) for name, value in present.items()}


def assert_same(got: Expected, expected: Expected, tolerance: float = 1e-5) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(
            got[name], value, atol=tolerance, rtol=tolerance, err_msg=name, strict=True
        )


def encode(service: Service, model: str, xs: Sequence[Array], **fields: Any) -> list[pb.Encoding]:
    """All outputs of `xs`, in one request."""
    reply = service.stub.Encode(
        pb.EncodeRequest(
            model=model,
            sequences=[tensors.encode(x) for x in xs],
            outputs=numbers(outputs_of(service.judges[model].config)),  # type: ignore[arg-type]
            **fields,
        ),
        timeout=HANGS_AFTER_SECONDS,
    )
    return list(reply.encodings)


# -- the numbers ------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_served_results_are_those_of_nn_lstm(service: Service, model: str) -> None:
    """Every output of every model, for sequences of mixed lengths in one request, is what
    nn.LSTM gives for each sequence alone."""
    judge = service.judges[model]
    xs = [draw(judge.config, steps, seed) for seed, steps in enumerate([7, 1, 12, 3, 7])]
    for encoding, x in zip(encode(service, model, xs), xs, strict=True):
        assert_same(arrays(encoding), judge.encode(x))


@pytest.mark.parametrize("dtype", INPUT_TYPES, ids=str)
@pytest.mark.parametrize("reply_type", REPLY_TYPES, ids=pb.DataType.Name)
def test_types_of_input_and_reply(service: Service, dtype: np.dtype[Any], reply_type: int) -> None:
    """Each float type in gives the numbers of its own values, and each comes out as asked,
    in its own precision."""
    judge = service.judges["mean"]
    x = draw(judge.config, 9).astype(dtype)
    (encoding,) = encode(service, "mean", [x], output_data_type=reply_type)
    assert_same(arrays(encoding), judge.encode(x), REPLY_TYPES[reply_type])
    replied = [encoding.states, encoding.logits, encoding.state.hidden, encoding.state.cell]
    assert {tensor.data_type for tensor in replied} == {reply_type}


def test_types_mixed_in_one_request(service: Service) -> None:
    """Sequences of different float types share a request."""
    judge = service.judges["mean"]
    xs = [draw(judge.config, 4, n).astype(t) for n, t in enumerate(INPUT_TYPES)]
    for encoding, x in zip(encode(service, "mean", xs), xs, strict=True):
        assert_same(arrays(encoding), judge.encode(x))


@pytest.mark.parametrize("dtype", ["<i4", "<i8"])
def test_token_ids_of_both_widths(service: Service, dtype: str) -> None:
    """int32 and int64 ids, the lowest and highest included, are looked up alike."""
    x = np.array([0, 19, 3, 19, 0], dtype)
    (encoding,) = encode(service, "tokens", [x])
    assert_same(arrays(encoding), service.judges["tokens"].encode(x))


def test_default_output_is_the_states(service: Service) -> None:
    """A request that asks for nothing in particular gets the states in float32, and no more."""
    x = draw(service.judges["last"].config, 4)
    reply = service.stub.Encode(pb.EncodeRequest(sequences=[tensors.encode(x)]))
    (encoding,) = reply.encodings
    assert (reply.model, reply.version) == ("last", "1")
    assert [field.name for field, _ in encoding.ListFields()] == ["states"]
    assert encoding.states.data_type == pb.DATA_TYPE_FLOAT32
    assert reply.timing.batch_sequences >= 1
    assert reply.timing.batch_tokens >= 4
    assert reply.timing.compute.ToTimedelta().total_seconds() > 0


@pytest.mark.parametrize("output", OUTPUTS)
def test_each_output_alone(service: Service, output: str) -> None:
    """An output asked for alone, even twice, comes alone and is the same."""
    judge = service.judges["max"]
    x = draw(judge.config, 6)
    request = pb.EncodeRequest(
        model="max",
        sequences=[tensors.encode(x)],
        outputs=numbers([output, output]),  # type: ignore[arg-type]
    )
    (encoding,) = service.stub.Encode(request).encodings
    names = {"hidden", "cell"} if output == "state" else {output}
    expected = judge.encode(x)
    assert_same(arrays(encoding), {name: expected[name] for name in names})


@pytest.mark.parametrize("model", MODELS)
def test_initial_states(service: Service, model: str) -> None:
    """Each sequence goes on from its own initial state."""
    judge = service.judges[model]
    config = judge.config
    generator = np.random.default_rng(0)
    xs = [draw(config, steps, 3) for steps in (5, 1, 8)]
    states = [
        (
            generator.standard_normal((config.state_rows, config.state_size), np.float32),
            generator.standard_normal((config.state_rows, config.hidden_size), np.float32),
        )
        for _ in xs
    ]
    messages = [pb.State(hidden=tensors.encode(h), cell=tensors.encode(c)) for h, c in states]
    for encoding, x, state in zip(
        encode(service, model, xs, initial_states=messages), xs, states, strict=True
    ):
        assert_same(arrays(encoding), judge.encode(x, state))


@pytest.mark.parametrize("cut", [1, 4, 9])
def test_sequence_in_two_parts(service: Service, cut: int) -> None:
    """With one direction, a sequence in two parts, the state carried over as it was received,
    gives what it gives in one go."""
    x = draw(service.judges["forward"].config, 10)
    (whole,) = encode(service, "forward", [x])
    (first,) = encode(service, "forward", [x[:cut]])
    (second,) = encode(service, "forward", [x[cut:]], initial_states=[first.state])
    parts = np.concatenate([arrays(e)["states"] for e in (first, second)])
    np.testing.assert_allclose(parts, arrays(whole)["states"], atol=1e-6)
    for name in ("hidden", "cell"):
        np.testing.assert_allclose(arrays(second)[name], arrays(whole)[name], atol=1e-6)


def test_nan_stays_in_its_own_sequence(service: Service) -> None:
    """A sequence of NaN in the same request changes nothing for its neighbours."""
    judge = service.judges["mean"]
    xs = [draw(judge.config, 5, n) for n in range(3)]
    xs[1][2] = np.nan
    encodings = encode(service, "mean", xs)
    for index in (0, 2):
        assert_same(arrays(encodings[index]), judge.encode(xs[index]))
    assert np.isnan(tensors.decode(encodings[1].states).astype(np.float64)).any()


# -- callers at once --------------------------------------------------------------------------


requests = st.lists(
    st.tuples(
        st.sampled_from(["mean", "forward", "tokens"]),
        st.lists(st.tuples(st.integers(1, 12), st.integers(0, 2**31)), min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=8,
)


@given(callers=st.lists(requests, min_size=2, max_size=2))
@examples(deadline=None, derandomize=True, max_examples=15)
def test_results_are_never_swapped(
    service: Service, callers: list[list[tuple[str, list[tuple[int, int]]]]]
) -> None:
    """Two clients that send random sequences at once each get, for each of their sequences,
    what it gives alone."""
    together = threading.Barrier(len(callers))

    def call(wanted: list[tuple[str, list[tuple[int, int]]]]) -> None:
        own_connection = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(service.target, options=own_connection) as channel:
            exchange(encoder_pb2_grpc.EncoderServiceStub(channel), wanted)

    def exchange(stub: Any, wanted: list[tuple[str, list[tuple[int, int]]]]) -> None:
        sent: list[tuple[str, list[Array], Any]] = []
        together.wait(HANGS_AFTER_SECONDS)
        for model, shapes in wanted:
            config = service.judges[model].config
            xs = [draw(config, steps, seed) for steps, seed in shapes]
            message = pb.EncodeRequest(
                model=model,
                sequences=[tensors.encode(x) for x in xs],
                outputs=numbers(outputs_of(config)),  # type: ignore[arg-type]
            )
            sent.append((model, xs, stub.Encode.future(message)))
        for model, xs, reply in sent:
            for encoding, x in zip(reply.result().encodings, xs, strict=True):
                assert_same(arrays(encoding), service.judges[model].encode(x))

    with ThreadPoolExecutor(len(callers)) as pool:
        list(pool.map(call, callers))


# -- models -----------------------------------------------------------------------------------


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
                expected = Judge.of(folder).encode(x)["states"]
                got = arrays(reply.encodings[0])["states"]
                np.testing.assert_allclose(got, expected, atol=1e-5)
    finally:
        running.close()


# -- health and reflection --------------------------------------------------------------------


async def health(channel: grpc.aio.Channel) -> list[int]:
    """Overall and of the service."""
    stub: Any = health_pb2_grpc.HealthStub(channel)
    checks = [health_pb2.HealthCheckRequest(service=s) for s in ("", "bilstm.v1.EncoderService")]
    return [(await stub.Check(check)).status for check in checks]


async def test_not_ready_until_loaded(model_folder: Path) -> None:
    """While a model loads the server is NOT_SERVING and every call UNAVAILABLE; when all are
    loaded and warm it is SERVING."""
    gate = threading.Event()

    def load_at_gate(folder: Path, settings: Settings) -> Engine:
        assert gate.wait(HANGS_AFTER_SECONDS)
        return load_engine(folder, settings)

    request = pb.EncodeRequest(sequences=[tensors.encode(np.ones((3, 5), "<f4"))])
    async with App(settings(model=[("small", model_folder)]), load_at_gate) as app:
        loading = asyncio.create_task(app.load())
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
                stub: Any = encoder_pb2_grpc.EncoderServiceStub(channel)
                assert await health(channel) == [NOT_SERVING, NOT_SERVING]
                for call in (
                    stub.Encode(request),
                    stub.ListModels(pb.ListModelsRequest()),
                    stub.GetModel(pb.GetModelRequest()),
                ):
                    with pytest.raises(grpc.aio.AioRpcError) as refusal:
                        await call
                    assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
                gate.set()
                await asyncio.wait_for(loading, HANGS_AFTER_SECONDS)
                assert await health(channel) == [SERVING, SERVING]
                assert len((await stub.Encode(request)).encodings) == 1
        finally:
            gate.set()
            await loading


@pytest.mark.parametrize("service_name", ["", "bilstm.v1.EncoderService"])
async def test_watch_sees_the_drain(model_folder: Path, service_name: str) -> None:
    """Who watches the health hears of SERVING, and of NOT_SERVING when the drain begins."""
    async with App(settings(model=[("small", model_folder)])) as app:
        await app.load()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            watch = stub.Watch(health_pb2.HealthCheckRequest(service=service_name))
            async with asyncio.timeout(HANGS_AFTER_SECONDS):
                assert (await watch.read()).status == SERVING
                draining = asyncio.create_task(app.drain())
                assert (await watch.read()).status == NOT_SERVING
                watch.cancel()
                await draining


async def test_drain_does_not_wait_for_watchers(model_folder: Path) -> None:
    """A caller that watches the health for ever does not hold up the drain: it ends without
    using up the drain's timeout."""
    endless = settings(model=[("small", model_folder)], drain_timeout_seconds=24 * 3600)
    async with App(endless) as app:
        await app.load()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            watch = stub.Watch(health_pb2.HealthCheckRequest())
            async with asyncio.timeout(HANGS_AFTER_SECONDS):
                assert (await watch.read()).status == SERVING
            try:
                async with asyncio.timeout(10):
                    await app.drain()
            finally:
                watch.cancel()


async def test_watchers_do_not_depend_on_each_other(model_folder: Path) -> None:
    """When one of two watchers leaves, the other still hears of the drain."""
    async with App(settings(model=[("small", model_folder)])) as app:
        await app.load()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            leaving, staying = (stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(2))
            handled = ("grpc_server_handled_total", WATCH | {"grpc_code": "CANCELLED"})
            try:
                async with asyncio.timeout(10):
                    for watch in (leaving, staying):
                        assert (await watch.read()).status == SERVING
                    leaving.cancel()
                    await until(lambda: app.metrics.registry.get_sample_value(*handled) == 1)
                    draining = asyncio.create_task(app.drain())
                    assert (await staying.read()).status == NOT_SERVING
            finally:
                staying.cancel()
            await draining


WATCH = {
    "grpc_type": "server_stream",
    "grpc_service": "grpc.health.v1.Health",
    "grpc_method": "Watch",
}


async def reflected(
    channel: grpc.aio.Channel, **asked: Any
) -> reflection_pb2.ServerReflectionResponse:
    stub_of: Any = reflection_pb2_grpc.ServerReflectionStub  # typed for blocking channels only
    stub = stub_of(channel)
    call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(**asked)]))
    (reply,) = [reply async for reply in call]
    assert isinstance(reply, reflection_pb2.ServerReflectionResponse)
    return reply


async def test_reflection(server: RunningServer) -> None:
    """Reflection lists the services and gives the description of the contract's own file."""
    async with grpc.aio.insecure_channel(server.target) as channel:
        listed = await reflected(channel, list_services="")
        assert {s.name for s in listed.list_services_response.service} == SERVICES
        found = await reflected(channel, file_containing_symbol="bilstm.v1.EncoderService")
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(data)
        for data in found.file_descriptor_response.file_descriptor_proto
    ]
    expected = descriptor_pb2.FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(expected)
    assert expected in files


async def test_unknown_method(server: RunningServer) -> None:
    """A method that is not there is UNIMPLEMENTED."""
    async with grpc.aio.insecure_channel(server.target) as channel:
        call: Any = channel.unary_unary("/bilstm.v1.EncoderService/Guess")
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await call(b"")
    assert refusal.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_stream_that_aborts_ends_with_its_own_status() -> None:
    """A status that a stream sends itself reaches the caller, and is counted as it is."""

    async def refuse(request: bytes, context: Any) -> AsyncIterator[bytes]:
        await context.abort(grpc.StatusCode.NOT_FOUND, "not here")
        yield b""

    handlers = {"Refuse": grpc.unary_stream_rpc_method_handler(refuse, bytes, bytes)}
    metrics = Metrics()
    replies = UntakenReplies(ReplyLimits(), lambda peer: True)
    layers: list[Layer] = [Outcomes(metrics), OpenStreams(100, replies)]
    decoding = Decoding(Receiving(ReceiveLimits()), replies, metrics.no_model)
    server = grpc.aio.server(interceptors=[InterceptorChain([], layers, decoding)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call: Any = channel.unary_stream("/t.T/Refuse")
            with pytest.raises(grpc.aio.AioRpcError, match="not here") as refusal:
                await call(b"").read()
    finally:
        await server.stop(None)
    assert refusal.value.code() is grpc.StatusCode.NOT_FOUND
    labels = {"grpc_type": "server_stream", "grpc_service": "t.T", "grpc_method": "Refuse"}
    handled = ("grpc_server_handled_total", labels | {"grpc_code": "NOT_FOUND"})
    assert metrics.registry.get_sample_value(*handled) == 1
