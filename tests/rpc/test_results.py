"""What is served, over the wire, judged by torch.nn.LSTM."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from bilstm.v1 import encoder_pb2_grpc
from bilstm_server.model import PlainConfig
from tests.rpc.judged import MODELS, OUTPUTS, Array, Expected, Service, arrays, numbers, outputs_of
from tests.support.waiting import HANGS_AFTER_SECONDS

INPUT_TYPES = [np.dtype(t) for t in ("<f4", "<f2", ml_dtypes.bfloat16)]
REPLY_TYPES: dict[int, float] = {  # and their precision
    pb.DATA_TYPE_FLOAT32: 1e-5,
    pb.DATA_TYPE_FLOAT16: 1e-3,
    pb.DATA_TYPE_BFLOAT16: 8e-3,
}


def draw(config: PlainConfig, steps: int, seed: int = 0) -> Array:
    """A sequence that the model takes."""
    generator = np.random.default_rng([seed, steps])
    if config.embedding:
        return generator.integers(0, config.embedding.num_embeddings, steps)
    return generator.standard_normal((steps, config.input_size), np.float32)


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


# -- the numbers ---------------------------------------------------------------------------------


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


# -- callers at once -----------------------------------------------------------------------------


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
