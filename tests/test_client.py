"""`Client` and `AsyncClient`, each against a real server: every claim is made of both.

The server's numbers are not judged here, but that the client brings them back unharmed. Where a
server must misbehave in a way of its own, a small raw gRPC server stands in.
"""

from __future__ import annotations

import asyncio
import copy
import pickle
import re
import socket
import subprocess
import sys
import threading
import tomllib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import grpc
import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import structlog
import torch
from conftest import RunningServer, settings, write_model
from engines import Gated
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from bilstm_client import (
    AsyncClient,
    Cancelled,
    Client,
    DeadlineExceeded,
    EncoderError,
    Encoding,
    InvalidInput,
    Model,
    ModelNotFound,
    NotRequested,
    Overloaded,
    ServerError,
    State,
    Unavailable,
)
from bilstm_client.types import Array, OutputName
from bilstm_server.errors import OutOfMemory

ROOT = Path(__file__).resolve().parents[1]
INPUT_SIZE, HIDDEN_SIZE, LAYERS, CLASSES = 5, 6, 2, 3  # of the model that `server` has first
HANGS_AFTER_SECONDS = 60
ALL_OUTPUTS: tuple[OutputName, ...] = ("states", "final", "mean", "max", "logits", "state")
T = TypeVar("T")

# -- both clients, called alike ---------------------------------------------------------------


class AwaitedClient:
    """`AsyncClient` called as `Client` is, from any thread; its loop has a thread of its own."""

    def __init__(self, target: str, **options: Any):
        self._client = AsyncClient(target, **options)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def _wait(self, call: Awaitable[T]) -> T:
        async def awaited() -> T:
            return await call

        return asyncio.run_coroutine_threadsafe(awaited(), self._loop).result(HANGS_AFTER_SECONDS)

    def encode(self, sequence: Any, **options: Any) -> Encoding:
        return self._wait(self._client.encode(sequence, **options))

    def encode_batch(self, sequences: Any, **options: Any) -> list[Encoding]:
        return self._wait(self._client.encode_batch(sequences, **options))

    def list_models(self, **options: Any) -> list[Model]:
        return self._wait(self._client.list_models(**options))

    def is_ready(self, **options: Any) -> bool:
        return self._wait(self._client.is_ready(**options))

    def wait_until_ready(self, **options: Any) -> None:
        self._wait(self._client.wait_until_ready(**options))

    def get_model(self, *names: str, **options: Any) -> Model:
        return self._wait(self._client.get_model(*names, **options))

    def close(self) -> None:
        self._wait(self._client.close())

    def __enter__(self) -> AwaitedClient:
        self._wait(self._client.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        self._wait(self._client.__aexit__(None, None, None))

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


AnyClient = Client | AwaitedClient
Connect = Callable[..., AnyClient]


@pytest.fixture(params=(Client, AwaitedClient), ids=["Client", "AsyncClient"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Makes clients of one kind, and closes them after the test."""
    with ExitStack() as stack:

        def open_client(target: str, **options: Any) -> AnyClient:
            client = cast(AnyClient, request.param(target, **options))
            if isinstance(client, AwaitedClient):
                stack.callback(client.stop)
            stack.callback(client.close)
            return client

        yield open_client


@pytest.fixture
def client(connect: Connect, server: RunningServer) -> AnyClient:
    return connect(server.target)


def arrays_of(encoding: Encoding) -> dict[str, Array]:
    """All that an encoding has, by name."""
    named: dict[str, Array] = {o: getattr(encoding, o) for o in encoding.outputs if o != "state"}
    if "state" in encoding.outputs:
        named |= {"hidden": encoding.state.hidden, "cell": encoding.state.cell}
    return named


def assert_same(one: Encoding, other: Encoding) -> None:
    """A sequence's batch mates may move its last bits, and no more."""
    ours, theirs = arrays_of(one), arrays_of(other)
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_allclose(array, theirs[name], rtol=0, atol=1e-6, err_msg=name)


def sequence(steps: int, seed: int = 0) -> Array:
    rng = np.random.default_rng((seed, steps))
    return rng.standard_normal((steps, INPUT_SIZE), dtype=np.float32)


# -- what a sequence may be -------------------------------------------------------------------

# Small integers, which every type here holds exactly: so every form must give the same bits.
X = np.random.default_rng(0).integers(-3, 4, (7, INPUT_SIZE)).astype(np.float32)
IDS = np.array([3, 0, 19, 7, 7, 1])


def strided(dtype: str) -> Array:
    """X as every second row and reversed column of a larger array."""
    large = np.full((2 * X.shape[0], X.shape[1]), np.nan, dtype)
    large[::2] = X[:, ::-1]
    return large[::2, ::-1]


def read_only() -> Array:
    array = X.copy()
    array.flags.writeable = False
    return array


FORMS: dict[str, Callable[[], Any]] = {
    "C": lambda: X,
    "Fortran": lambda: np.asfortranarray(X),
    "transposed": lambda: np.ascontiguousarray(X.T).T,
    "strided": lambda: strided("f4"),
    "strided float64": lambda: strided("f8"),
    "read-only": read_only,
    "float64": lambda: X.astype("f8"),
    "float16": lambda: X.astype("f2"),
    "longdouble": lambda: X.astype(np.longdouble),
    "bfloat16": lambda: X.astype(ml_dtypes.bfloat16),
    "big-endian float32": lambda: X.astype(">f4"),
    "big-endian float64": lambda: X.astype(">f8"),
    "big-endian float16": lambda: X.astype(">f2"),
    "int64": lambda: X.astype("i8"),
    "int8": lambda: X.astype("i1"),
    "big-endian int32": lambda: X.astype(">i4"),
    "nested lists": X.tolist,
    "nested lists of ints": lambda: X.astype(int).tolist(),
    "tuples": lambda: tuple(tuple(row) for row in X.tolist()),
    "list of rows": lambda: list(X),
    "torch": lambda: torch.tensor(X),
    "torch requires grad": lambda: torch.tensor(X, requires_grad=True),
    "torch with a graph": lambda: torch.tensor(X, requires_grad=True) * 1.0,
    "torch parameter": lambda: nn.Parameter(torch.tensor(X)),
    "torch bfloat16": lambda: torch.tensor(X, dtype=torch.bfloat16),
    "torch bfloat16 requires grad": lambda: torch.tensor(
        X, dtype=torch.bfloat16, requires_grad=True
    ),
    "torch float16": lambda: torch.tensor(X, dtype=torch.float16),
    "torch float64": lambda: torch.tensor(X, dtype=torch.float64),
    "torch int64": lambda: torch.tensor(X.astype("i8")),
    "torch transposed": lambda: torch.tensor(np.ascontiguousarray(X.T)).T,
    "torch strided": lambda: torch.tensor(np.repeat(X, 2, axis=0))[::2],
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_a_sequence(form: str, client: AnyClient) -> None:
    """A sequence gives the same result in whatever array, tensor or list it comes."""
    expected = client.encode(X).states
    assert expected.shape == (len(X), 2 * HIDDEN_SIZE)
    np.testing.assert_array_equal(client.encode(FORMS[form]()).states, expected)


ID_FORMS: dict[str, Callable[[], Any]] = {
    "list": IDS.tolist,
    "tuple": lambda: tuple(IDS.tolist()),
    "strided": lambda: np.repeat(IDS, 2)[::2],
    "reversed view": lambda: np.ascontiguousarray(IDS[::-1])[::-1],
    "torch int64": lambda: torch.tensor(IDS),
    "torch int32": lambda: torch.tensor(IDS, dtype=torch.int32),
    "torch uint8": lambda: torch.tensor(IDS, dtype=torch.uint8),
    "torch strided": lambda: torch.tensor(np.repeat(IDS, 2))[::2],
} | {
    dtype: lambda dtype=dtype: IDS.astype(dtype)
    for dtype in ("i1", "i2", "i4", "i8", ">i4", ">i8", "u1", "u2", "u4", "u8")
}


@pytest.mark.parametrize("form", ID_FORMS)
def test_forms_of_token_ids(form: str, client: AnyClient) -> None:
    """Token ids give the same result in whatever integer type or container they come."""
    expected = client.encode(IDS, model="tokens").states
    assert expected.shape == (len(IDS), 2 * HIDDEN_SIZE)
    served = client.encode(ID_FORMS[form](), model="tokens").states
    np.testing.assert_array_equal(served, expected)


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        "abc",
        b"abc",
        {"a": 1},
        object(),
        [["a", "b"]],
        [[1.0, 2.0], [1.0]],
        [[1.0, None]],
        np.ones((2, INPUT_SIZE), np.complex64),
        np.array(["2020-01-01"], "M8[D]"),
        np.zeros(2, [("a", "f4")]),
    ],
    ids=repr,
)
def test_what_is_no_sequence(wrong: Any, client: AnyClient) -> None:
    """What can't be numbers is refused by the client itself, by a TypeError with its index."""
    with pytest.raises(TypeError, match=r"^sequences\[0\]: must be an array of numbers"):
        client.encode(wrong)
    with pytest.raises(TypeError, match=r"^sequences\[1\]: must be an array of numbers"):
        client.encode_batch([X, wrong])


def fake_tensor() -> Any:
    with FakeTensorMode():
        return torch.ones(7, INPUT_SIZE)


WITHOUT_NUMBERS: dict[str, tuple[Callable[[], Any], str]] = {
    "meta": (lambda: torch.ones(7, INPUT_SIZE, device="meta"), "without data"),
    "fake": (fake_tensor, "without data"),
    "sparse": (lambda: torch.ones(7, INPUT_SIZE).to_sparse(), r"to_dense\(\)"),
    "sparse rows": (lambda: torch.ones(7, INPUT_SIZE).to_sparse_csr(), r"to_dense\(\)"),
    "large sparse": (lambda: torch.ones(100_000, INPUT_SIZE).to_sparse(), r"to_dense\(\)"),
    "large meta": (lambda: torch.ones(100_000, INPUT_SIZE, device="meta"), "without data"),
    "quantised": (
        lambda: torch.quantize_per_tensor(torch.ones(7, INPUT_SIZE), 0.1, 0, torch.qint8),
        r"dequantize\(\)",
    ),
    "nested": (lambda: torch.nested.nested_tensor([torch.ones(7, INPUT_SIZE)]), "nested tensor"),
    "jagged": (
        lambda: torch.nested.nested_tensor([torch.ones(7, INPUT_SIZE)], layout=torch.jagged),
        "nested tensor",
    ),
    "list of meta": (lambda: [torch.ones(INPUT_SIZE, device="meta")] * 7, "array of numbers"),
    "list that requires grad": (
        lambda: [torch.ones(INPUT_SIZE, requires_grad=True)] * 7,
        "array of numbers",
    ),
    "float8": (lambda: torch.ones(7, INPUT_SIZE).to(torch.float8_e4m3fn), "array of numbers"),
    "complex": (lambda: torch.ones(7, INPUT_SIZE, dtype=torch.complex64).conj(), "of numbers"),
}


@pytest.mark.filterwarnings("ignore")  # torch's, of what is new in it or going
@pytest.mark.parametrize("case", WITHOUT_NUMBERS)
def test_tensor_without_numbers(case: str, client: AnyClient) -> None:
    """A tensor that holds no numbers to send is a TypeError that says what it is."""
    make, words = WITHOUT_NUMBERS[case]
    with pytest.raises(TypeError, match=rf"^sequences\[0\]: must .*{words}"):
        client.encode(make())


def test_negated_view(client: AnyClient) -> None:
    """A tensor that is only marked as negative is sent as what it is."""
    negated = torch.complex(torch.zeros(X.shape), torch.tensor(-X)).conj().imag
    assert negated.is_neg()
    np.testing.assert_array_equal(client.encode(negated).states, client.encode(X).states)


INTEGERS: dict[str, Any] = {
    "list": [[1, 2, 3]],
    "int64": np.array([[1, 2, 3]]),
    "int8": np.array([[1, 2, 3]], "i1"),
    "bool": np.array([[True, False, True]]),
    "torch": torch.tensor([[1, 2, 3]]),
}


@pytest.mark.parametrize("form", INTEGERS)
def test_integers_that_are_no_token_ids(form: str, client: AnyClient) -> None:
    """Token ids in a batch of one are refused for their shape, and not as floats."""
    with pytest.raises(InvalidInput) as caught:
        client.encode_batch([IDS, INTEGERS[form]], model="tokens")
    assert caught.value.field == "sequences[1].shape"
    assert caught.value.expected == "must be [T] of token ids, got [1, 3]"


def test_integers_that_are_features(client: AnyClient) -> None:
    """The like for a model that takes floats are its features, and refused as such."""
    with pytest.raises(InvalidInput) as caught:
        client.encode([[1, 2, 3]])
    assert caught.value.field == "sequences[0].shape"
    assert "must be [T, 5] (input_size), got [1, 3]" in caught.value.expected


def test_integers_never_wrap(client: AnyClient) -> None:
    """Token ids beyond int64 are a TypeError, not other ids."""
    with pytest.raises(TypeError, match=r"^sequences\[1\]: .* got 9223372036854775808$"):
        client.encode_batch([IDS, np.array([1, 2**63], "u8")], model="tokens")
    with pytest.raises(TypeError, match=r"^sequences\[0\]: "):
        client.encode([1, 2**64], model="tokens")


@pytest.mark.parametrize("dtype", ["f8", ">f8", np.longdouble])
def test_beyond_float32(dtype: Any, client: AnyClient) -> None:
    """A float beyond float32's range is sent as inf, without a warning."""
    beyond, infinite = X.astype(dtype), X.copy()
    beyond[3, 1], infinite[3, 1] = -1e300, -np.inf
    np.testing.assert_array_equal(client.encode(beyond).states, client.encode(infinite).states)


def test_nan_stays_in_its_sequence(client: AnyClient) -> None:
    """A NaN passes through, and its batch mates know nothing of it."""
    broken = X.copy()
    broken[3, 1] = np.nan
    one, other = client.encode_batch([broken, X])
    assert np.isnan(one.states).any()
    assert_same(other, client.encode(X))


def test_outputs_of_no_list(client: AnyClient) -> None:
    """Outputs that are neither a name nor a list of names are a TypeError."""
    with pytest.raises(TypeError) as caught:
        client.encode(X, outputs=cast(Any, None))
    assert str(caught.value) == "outputs must be a name or a list of names, got None"
    with pytest.raises(ValueError, match="'states,final' is no output"):
        client.encode(X, outputs=cast(Any, "states,final"))


def test_unknown_output(client: AnyClient) -> None:
    """An output that does not exist is a ValueError that lists those that do."""
    with pytest.raises(ValueError, match="no output") as caught:
        client.encode(X, outputs=cast(Any, ["states", "bogus"]))
    assert str(caught.value) == f"'bogus' is no output; there are: {', '.join(ALL_OUTPUTS)}"
    with pytest.raises(ValueError, match="no output"):
        client.encode_batch([], outputs=cast(Any, ["bogus"]))


@pytest.mark.parametrize("name", ["float8", "int32", "unspecified"])
def test_unknown_output_data_type(name: Any, client: AnyClient) -> None:
    """A type that no output can have is a ValueError that lists those that it can."""
    with pytest.raises(ValueError, match="no output_data_type") as caught:
        client.encode(X, output_data_type=name)
    assert str(caught.value).endswith("there are: float32, float16, bfloat16")


# -- what comes back --------------------------------------------------------------------------


def test_all_outputs(client: AnyClient) -> None:
    """Every output that is asked for comes back in its shape, in float32."""
    encoding = client.encode(X, outputs=ALL_OUTPUTS)
    assert {name: array.shape for name, array in arrays_of(encoding).items()} == {
        "states": (7, 2 * HIDDEN_SIZE),
        "final": (2 * HIDDEN_SIZE,),
        "mean": (2 * HIDDEN_SIZE,),
        "max": (2 * HIDDEN_SIZE,),
        "logits": (CLASSES,),
        "hidden": (2 * LAYERS, HIDDEN_SIZE),
        "cell": (2 * LAYERS, HIDDEN_SIZE),
    }
    assert {array.dtype for array in arrays_of(encoding).values()} == {np.dtype("f4")}
    np.testing.assert_allclose(encoding.states.mean(0), encoding.mean, rtol=0, atol=1e-6)
    assert encoding.timing.batch_sequences >= 1
    assert encoding.timing.batch_tokens >= 7


@pytest.mark.parametrize("output", ALL_OUTPUTS)
def test_one_output(output: OutputName, client: AnyClient) -> None:
    """One output may be given as a name alone. What was not asked for raises an error that says
    what to request, and `hasattr` says that it is not there."""
    for outputs in (output, [output]):
        encoding = client.encode(X, outputs=outputs)
        assert encoding.outputs == (output,)
        assert [name for name in ALL_OUTPUTS if hasattr(encoding, name)] == [output]
    for name in set(ALL_OUTPUTS) - {output}:
        with pytest.raises(NotRequested, match=re.escape(f"outputs={[output, name]}")) as caught:
            getattr(encoding, name)
        assert caught.value.name == name


def test_encodings_can_be_copied(client: AnyClient) -> None:
    """A pickled encoding, and a copy, are as it was, and so is the error of what they have not."""
    encoding = client.encode(X, outputs=["states", "state"])
    for duplicate in (pickle.loads(pickle.dumps(encoding)), copy.deepcopy(encoding)):
        assert_same(duplicate, encoding)
        assert (duplicate.timing, repr(duplicate)) == (encoding.timing, repr(encoding))
        with pytest.raises(NotRequested) as caught:
            _ = duplicate.logits
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    with pytest.raises(AttributeError):
        encoding.states = X  # type: ignore[misc]


def test_repr(client: AnyClient) -> None:
    """An encoding shows the type and shape of its arrays, not their numbers."""
    encoding = client.encode(X, outputs=["states", "logits"])
    assert repr(encoding) == "Encoding(states=float32[7, 12], logits=float32[3])"
    half = client.encode(X, outputs=["state"], output_data_type="bfloat16")
    state = "State(hidden=bfloat16[4, 6], cell=bfloat16[4, 6])"
    assert (repr(half), repr(half.state)) == (f"Encoding(state={state})", state)
    assert repr(State(cast(Any, [1.0]), cast(Any, None))) == "State(hidden=[1.0], cell=None)"


def test_results_are_the_callers_own(client: AnyClient) -> None:
    """Every array can be written to, and writing to one leaves the others as they are."""
    encodings = client.encode_batch([X, X], outputs=ALL_OUTPUTS)
    for array in arrays_of(encodings[0]).values():
        array[...] = 7.0
    assert_same(encodings[1], client.encode(X, outputs=ALL_OUTPUTS))


@pytest.mark.parametrize(
    ("name", "dtype", "tolerance"),
    [("float16", np.float16, 1e-3), ("bfloat16", ml_dtypes.bfloat16, 1e-2)],
)
def test_output_data_type(name: Any, dtype: type, tolerance: float, client: AnyClient) -> None:
    """Results come in the type that is asked for, as near as it can hold them."""
    asked = client.encode(X, outputs=ALL_OUTPUTS, output_data_type=name)
    plain = client.encode(X, outputs=ALL_OUTPUTS)
    for field, array in arrays_of(asked).items():
        assert array.dtype == dtype
        np.testing.assert_allclose(
            array.astype("f4"), arrays_of(plain)[field], rtol=tolerance, atol=tolerance
        )


def test_initial_state(client: AnyClient, model_folder: Path) -> None:
    """A state given is where nn.LSTM would start, and the state returned is where it ends."""
    weights = safetensors.torch.load_file(model_folder / "model.safetensors")
    lstm = nn.LSTM(INPUT_SIZE, HIDDEN_SIZE, LAYERS, bidirectional=True)
    lstm.load_state_dict(
        {k.removeprefix("lstm."): t for k, t in weights.items() if k.startswith("lstm.")}
    )
    hidden, cell = torch.randn(2, 2 * LAYERS, HIDDEN_SIZE, generator=torch.manual_seed(3))
    with torch.inference_mode():
        y, (h_n, c_n) = lstm(torch.tensor(X), (hidden, cell))
    for start in (State(hidden.numpy(), cell.numpy()), (hidden, cell)):
        encoding = client.encode(X, outputs=["states", "state"], initial_state=start)
        for ours, theirs in (
            (encoding.states, y),
            (encoding.state.hidden, h_n),
            (encoding.state.cell, c_n),
        ):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


ZEROS = np.zeros((2 * LAYERS, HIDDEN_SIZE))


@pytest.mark.parametrize(
    "wrong", [ZEROS, (ZEROS,), (ZEROS, ZEROS, ZEROS), "hc", {"hidden": ZEROS, "cell": ZEROS}]
)
def test_what_is_no_state(wrong: Any, client: AnyClient) -> None:
    """An initial state is a State or a pair; anything else is a TypeError that says so."""
    with pytest.raises(TypeError, match=r"^initial_states\[0\]: must be a State or a \(hidden, c"):
        client.encode(X, initial_state=wrong)
    with pytest.raises(TypeError, match=r"^initial_states\[1\]: must be a State or a \(hidden, c"):
        client.encode_batch([X, X], initial_states=[State(ZEROS, ZEROS), wrong])


def test_state_of_no_numbers(client: AnyClient) -> None:
    """What is wrong in a state is named by its place."""
    with pytest.raises(TypeError, match=r"^initial_states\[1\]\.cell: must be an array of numbers"):
        client.encode_batch([X, X], initial_states=[(ZEROS, ZEROS), (ZEROS, [["a"]])])


def test_initial_state_round_trip(limited_client: AnyClient) -> None:
    """A unidirectional model goes on from the state it returned, as if never interrupted."""
    whole = limited_client.encode(X, outputs=["states", "state"], model="forward")
    state = None
    parts = []
    for part in np.split(X, [1, 4]):
        encoding = limited_client.encode(
            part, outputs=["states", "state"], model="forward", initial_state=state
        )
        parts.append(encoding.states)
        state = encoding.state
    np.testing.assert_allclose(np.concatenate(parts), whole.states, rtol=0, atol=1e-6)


def test_models(client: AnyClient) -> None:
    """The server's models are listed, the default first, and each can be asked for by name."""
    models = client.list_models()
    assert [model.name for model in models] == ["small", "tokens"]
    assert [client.get_model(model.name) for model in models] == models
    assert client.get_model() == client.get_model("small", "1") == models[0]
    small = models[0]
    assert (small.input_size, small.hidden_size, small.num_layers) == (5, 6, 2)
    assert small.labels == ("red", "green", "blue")
    assert small.outputs == ALL_OUTPUTS
    assert models[1].num_embeddings == 20
    assert "logits" not in models[1].outputs


# -- batches, and how they are split ----------------------------------------------------------


@pytest.fixture(scope="module")
def limited(
    model_folder: Path, token_model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """A server with tiny limits: 4 sequences, 100 steps, 1,600 bytes."""
    forward = write_model(tmp_path_factory.mktemp("models") / "forward", bidirectional=False)
    running = RunningServer(
        settings(
            model=[("small", model_folder), ("tokens", token_model_folder), ("forward", forward)],
            max_request_sequences=4,
            max_sequence_tokens=50,
            max_batch_tokens=100,
            max_message_bytes=1600,
        )
    )
    yield running
    running.close()


@pytest.fixture
def limited_client(connect: Connect, limited: RunningServer) -> AnyClient:
    return connect(limited.target)


def calls(server: RunningServer, method: str = "Encode") -> float:
    """How many RPCs of the method the server has seen."""
    labels = {
        "grpc_type": "unary",
        "grpc_service": "bilstm.v1.EncoderService",
        "grpc_method": method,
    }
    registry = server.app.metrics.registry
    return registry.get_sample_value("grpc_server_started_total", labels) or 0.0


def test_batch_order(client: AnyClient, server: RunningServer) -> None:
    """A batch's results are in the order of its sequences, each as if encoded alone; one RPC."""
    sequences = [sequence(steps) for steps in (3, 1, 12, 5, 1)]
    alone = [client.encode(x, outputs=ALL_OUTPUTS) for x in sequences]
    before = calls(server)
    batch = client.encode_batch(iter(sequences), outputs=ALL_OUTPUTS)
    assert calls(server) == before + 1
    for one, other in zip(batch, alone, strict=True):
        assert_same(one, other)


def test_empty_batch(client: AnyClient, server: RunningServer) -> None:
    """No sequences give no results, and no RPC."""
    before = calls(server)
    assert client.encode_batch([]) == []
    assert client.encode_batch([], initial_states=[]) == []
    assert calls(server) == before


# What is encoded, how, and the RPCs that the limit needs.
SPLITS: dict[str, tuple[list[Array], dict[str, Any], int]] = {
    "within limits": ([sequence(1) for _ in range(4)], {}, 1),
    "sequences": ([sequence(1, i) for i in range(10)], {}, 3),
    "steps": ([np.arange(40) % 20] * 5, {"model": "tokens", "outputs": ["final"]}, 3),
    "request bytes": ([sequence(20, i) for i in range(9)], {"outputs": ["final"]}, 3),
    "reply bytes": ([sequence(10, i) for i in range(9)], {}, 3),
    "reply bytes in half": (
        [sequence(10, i) for i in range(8)],
        {"output_data_type": "float16"},
        2,
    ),
    "reply bytes by default outputs": ([sequence(10, i) for i in range(9)], {"outputs": []}, 3),
    "reply bytes of states": (
        [sequence(3, i) for i in range(9)],
        {"outputs": ALL_OUTPUTS},
        3,
    ),
}


@pytest.mark.parametrize("limit", SPLITS)
def test_split_by(limit: str, limited_client: AnyClient, limited: RunningServer) -> None:
    """A batch beyond a limit is sent in as few RPCs as it needs, and comes back whole."""
    sequences, options, needed = SPLITS[limit]
    alone = [limited_client.encode(x, **options) for x in sequences]
    before = calls(limited)
    batch = limited_client.encode_batch(sequences, **options)
    assert calls(limited) - before == needed
    for one, other in zip(batch, alone, strict=True):
        assert_same(one, other)


def test_split_with_initial_states(limited_client: AnyClient) -> None:
    """Each part of a batch takes its own sequences' initial states along."""
    sequences = [sequence(2, i) for i in range(9)]
    states = [
        State(*np.random.default_rng(i).standard_normal((2, 4, HIDDEN_SIZE))) for i in range(9)
    ]
    batch = limited_client.encode_batch(sequences, initial_states=states)
    pairs = limited_client.encode_batch(
        sequences, initial_states=[(state.hidden, state.cell) for state in states]
    )
    for x, state, encoding, other in zip(sequences, states, batch, pairs, strict=True):
        assert_same(encoding, limited_client.encode(x, initial_state=state))
        assert_same(encoding, other)


@given(
    lengths=st.lists(st.integers(1, 20), max_size=14),
    outputs=st.sets(st.sampled_from(ALL_OUTPUTS), min_size=1),
)
@hypothesis_settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # the client keeps no results
)
def test_any_batch(lengths: list[int], outputs: set[OutputName], limited_client: AnyClient) -> None:
    """However long its sequences are, no batch whose sequences keep the limits is refused."""
    asked = sorted(outputs)
    batch = limited_client.encode_batch([sequence(n) for n in lengths], outputs=asked)
    assert len(batch) == len(lengths)
    for n, encoding in zip(lengths, batch, strict=True):
        assert arrays_of(encoding).keys() == {
            name for o in asked for name in (("hidden", "cell") if o == "state" else (o,))
        }
        if "states" in encoding.outputs:
            assert len(encoding.states) == n


@contextmanager
def successor(closed: RunningServer, **values: object) -> Iterator[RunningServer]:
    """Another server at the address of one that is closed."""
    running = RunningServer(settings(port=closed.app.port, **values))
    try:
        yield running
    finally:
        running.close()


@pytest.fixture
def predecessor(model_folder: Path) -> RunningServer:
    """A server with the usual limits, whose clients are to meet its successor."""
    return RunningServer(settings(model=[("small", model_folder)]))


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        ({"max_request_sequences": 4}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"max_message_bytes": 1000}, grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
)
def test_new_limits(
    limits: dict[str, int],
    code: grpc.StatusCode,
    connect: Connect,
    predecessor: RunningServer,
    model_folder: Path,
) -> None:
    """What a restarted server's new limits refuse once is cut by them the next time."""
    client = connect(predecessor.target)
    before = client.encode_batch([X] * 8, outputs=["final"])
    predecessor.close()
    with successor(predecessor, model=[("small", model_folder)], **limits) as server:
        with pytest.raises(InvalidInput) as caught:
            client.encode_batch([X] * 8, outputs=["final"])
        assert (caught.value.code, caught.value.field) == (code, "sequences")
        after = client.encode_batch([X] * 8, outputs=["final"])
        assert calls(server, "GetModel") == 1
        client.close()
    for one, other in zip(before, after, strict=True):
        assert_same(one, other)


def test_model_that_is_gone(
    connect: Connect, predecessor: RunningServer, model_folder: Path
) -> None:
    """A model that a restarted server has no more is asked for again by the next call."""
    client = connect(predecessor.target)
    client.encode_batch([X, X], model="small")
    predecessor.close()
    with successor(predecessor, model=[("other", model_folder)]) as server:
        for asked in (0, 1):
            with pytest.raises(ModelNotFound):
                client.encode_batch([X, X], model="small")
            assert calls(server, "GetModel") == asked
        client.close()


def test_error_names_the_callers_index(limited_client: AnyClient) -> None:
    """A fault in a later part is named by the sequence's place in the caller's batch."""
    sequences = [sequence(1, i) for i in range(20)]
    with pytest.raises(InvalidInput) as caught:
        limited_client.encode_batch([*sequences[:13], np.ones((1, 4), "f4"), *sequences[14:]])
    assert caught.value.field == "sequences[13].shape"
    assert str(caught.value).startswith("INVALID_ARGUMENT: sequences[13].shape: ")
    state = State(np.zeros((4, HIDDEN_SIZE)), np.zeros((4, HIDDEN_SIZE)))
    wrong = State(np.zeros((4, 2)), np.zeros((4, HIDDEN_SIZE)))
    with pytest.raises(InvalidInput) as caught:
        limited_client.encode_batch(
            sequences, initial_states=[*[state] * 13, wrong, *[state] * (len(sequences) - 14)]
        )
    assert caught.value.field == "initial_states[13].hidden.shape"


def test_states_must_be_one_per_sequence(client: AnyClient) -> None:
    """Initial states that are not one per sequence are a ValueError."""
    state = State(np.zeros((4, HIDDEN_SIZE)), np.zeros((4, HIDDEN_SIZE)))
    with pytest.raises(ValueError, match="one per sequence: 2, got 1"):
        client.encode_batch([X, X], initial_states=[state])


# -- errors -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gated_servers() -> Iterator[list[RunningServer]]:
    """Servers to close after the last test, all at once: each takes a while."""
    running: list[RunningServer] = []
    yield running
    with ThreadPoolExecutor() as pool:
        list(pool.map(RunningServer.close, running))


@pytest.fixture
def gated(
    model_folder: Path, gated_servers: list[RunningServer]
) -> Iterator[tuple[RunningServer, Gated]]:
    """A server with room for one short sequence in the queue, whose engine stands at a gate."""
    gate = Gated()
    running = RunningServer(
        settings(
            model=[("small", model_folder)],
            max_sequence_tokens=4,
            max_batch_tokens=4,
            max_queue_tokens=4,
        ),
        gate,
    )
    gated_servers.append(running)
    yield running, gate
    gate.open()


def wait_at(gate: Gated) -> None:
    """Return when one more batch stands at the gate."""
    asyncio.run(gate.engines["small"].arrival())


def test_invalid_input(client: AnyClient) -> None:
    """Bad input is an InvalidInput with the code, the field and what was expected."""
    with pytest.raises(InvalidInput) as caught:
        client.encode(np.ones((2, 4), "f4"))
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.field == "sequences[0].shape"
    assert "[T, 5]" in caught.value.expected
    assert isinstance(caught.value, EncoderError)
    assert isinstance(caught.value.__cause__, grpc.RpcError)


@pytest.mark.parametrize("count", [1, 20])
def test_request_too_large(count: int, limited_client: AnyClient) -> None:
    """A sequence that no message can hold is an InvalidInput with its index, not an overload."""
    with pytest.raises(InvalidInput, match="larger than max") as caught:
        limited_client.encode_batch([*[sequence(1)] * (count - 1), sequence(100)])
    assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert caught.value.field == f"sequences[{count - 1}]"
    assert "the request is larger than the server takes: " in caught.value.expected
    assert caught.value.expected.endswith("; encode_stream sends it in pieces")


def test_sequence_too_long(limited_client: AnyClient) -> None:
    """Where a sequence is longer than a call takes, the error names the method that takes it."""
    with pytest.raises(InvalidInput, match="encode_stream") as caught:
        limited_client.encode_batch([X, sequence(60)])
    assert caught.value.field == "sequences[1].shape"


def test_model_not_found(client: AnyClient) -> None:
    """An unknown model or version is a ModelNotFound, whatever was asked of it."""
    for call in (
        lambda: client.encode(X, model="none"),
        lambda: client.encode_batch([X, X], version="9"),
        lambda: client.get_model("none"),
    ):
        with pytest.raises(ModelNotFound) as caught:
            call()
        assert caught.value.code is grpc.StatusCode.NOT_FOUND


def test_overloaded(connect: Connect, gated: tuple[RunningServer, Gated]) -> None:
    """What finds the queue full is an Overloaded that says when to try again."""
    server, gate = gated
    client = connect(server.target)
    x = sequence(4)
    with ThreadPoolExecutor() as pool:
        computing = pool.submit(client.encode, x)
        wait_at(gate)
        rivals = [pool.submit(client.encode, x) for _ in range(4)]  # more than the queue holds
        refused, _ = wait(rivals, HANGS_AFTER_SECONDS, FIRST_COMPLETED)
        gate.open()
        assert_same(computing.result(), client.encode(x))
        error = refused.pop().exception()
    assert isinstance(error, Overloaded)
    assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error.retry_after_seconds is not None
    assert error.retry_after_seconds > 0


def test_out_of_memory(connect: Connect, gated: tuple[RunningServer, Gated]) -> None:
    """What the server's memory does not hold is an Overloaded that knows no better time."""

    def fail(staged: object) -> None:
        raise OutOfMemory("out of memory")

    server, gate = gated
    gate.engines["small"].fault = fail
    gate.open()
    with pytest.raises(Overloaded) as caught:
        connect(server.target).encode(X[:4])
    assert caught.value.retry_after_seconds is None


def test_deadline(connect: Connect, gated: tuple[RunningServer, Gated]) -> None:
    """A call without an answer within its timeout is a DeadlineExceeded."""
    client = connect(gated[0].target)
    with pytest.raises(DeadlineExceeded) as caught:
        client.encode(X[:4], timeout_seconds=0.1)
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    with pytest.raises(DeadlineExceeded):
        connect(gated[0].target, timeout_seconds=0.1).encode(X[:4])


@pytest.mark.parametrize(
    ("seconds", "kind"),
    [(float("nan"), ValueError), (float("inf"), ValueError), ("30", TypeError), (1j, TypeError)],
)
def test_timeout_of_no_seconds(
    seconds: Any, kind: type[Exception], connect: Connect, server: RunningServer
) -> None:
    """A timeout that is no finite number is refused, by the constructor and by every call."""
    with pytest.raises(kind, match=r"^timeout_seconds must be a "):
        connect(server.target, timeout_seconds=seconds)
    with pytest.raises(TypeError, match=r"^timeout_seconds must be a number, got None"):
        connect(server.target, timeout_seconds=None)
    client = connect(server.target)
    for call in CALLS.values():
        with pytest.raises(kind, match=r"^timeout_seconds must be a "):
            call(client, timeout_seconds=seconds)


def test_server_error(connect: Connect, gated: tuple[RunningServer, Gated]) -> None:
    """A failure of the server is a ServerError whose id the server's log has, with the cause."""

    def fail(staged: object) -> None:
        raise RuntimeError("a secret of the engine")

    server, gate = gated
    gate.engines["small"].fault = fail
    gate.open()
    with structlog.testing.capture_logs() as events, pytest.raises(ServerError) as caught:
        connect(server.target).encode(X[:4])
    assert caught.value.code is grpc.StatusCode.INTERNAL
    assert caught.value.error_id
    assert "secret" not in str(caught.value)
    (logged,) = (e for e in events if e.get("error_id") == caught.value.error_id)
    assert "a secret of the engine" in str(logged["exc_info"])


@pytest.fixture
def nowhere() -> Iterator[str]:
    """An address that is taken, so that no one else gets it, and that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def test_unavailable(connect: Connect, nowhere: str) -> None:
    """Where no server is, a call is an Unavailable."""
    with pytest.raises(Unavailable) as caught:
        connect(nowhere).encode(X)
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE


# -- cancellation and closing -----------------------------------------------------------------

CLOSED = r"^the client is closed$"


def test_close_ends_waiting_calls(connect: Connect, gated: tuple[RunningServer, Gated]) -> None:
    """A call that waits while its client closes ends with a Cancelled."""
    server, gate = gated
    client = connect(server.target)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(client.encode, X[:4])
        wait_at(gate)
        client.close()
        with pytest.raises(Cancelled) as caught:
            waiting.result(HANGS_AFTER_SECONDS)
    assert caught.value.code is grpc.StatusCode.CANCELLED
    assert calls(server) == 1


def test_context_manager_closes(connect: Connect, server: RunningServer) -> None:
    """Inside of `with` a client works; after it every call is a ValueError, and none is sent."""
    client = connect(server.target)
    with client as entered:
        assert entered is client
        client.encode(X)
    before = calls(server)
    for call in CALLS.values():
        with pytest.raises(ValueError, match=CLOSED):
            call(client)
    with pytest.raises(ValueError, match=CLOSED):
        client.encode_batch([])
    with pytest.raises(ValueError, match=CLOSED), client:
        pass
    assert calls(server) == before


def test_close_before_use(connect: Connect, server: RunningServer) -> None:
    """A client that was never used can be closed, also twice, and is closed then."""
    client = connect(server.target)
    client.close()
    client.close()
    with pytest.raises(ValueError, match=CLOSED):
        client.encode(X)


def test_closed_while_a_call_begins(server: RunningServer) -> None:
    """A call whose client another thread closes before it is sent says so too."""
    client = Client(server.target)

    def sequences() -> Iterator[Array]:
        yield X
        client.close()

    with pytest.raises(ValueError, match=CLOSED):
        client.encode_batch(sequences())


async def test_no_loop_to_construct(server: RunningServer) -> None:
    """An `AsyncClient` made where no loop runs opens its channel in the one that does."""
    client = await asyncio.to_thread(AsyncClient, server.target)
    assert (await client.encode(X)).states.shape == (7, 2 * HIDDEN_SIZE)
    await client.close()


async def test_cancelled_task(gated: tuple[RunningServer, Gated]) -> None:
    """A task that is cancelled while it waits is cancelled; its client goes on."""
    server, gate = gated
    async with AsyncClient(server.target) as client:
        task = asyncio.create_task(client.encode(X[:4]))
        await gate.engines["small"].arrival()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.open()
        assert (await client.encode(X[:4])).states.shape == (4, 2 * HIDDEN_SIZE)
    assert calls(server) == 2


def test_shared_by_threads(client: AnyClient) -> None:
    """Many threads may share a client: each gets its own sequence's result."""
    sequences = [sequence(1 + i % 7, i) for i in range(48)]
    alone = [client.encode(x, outputs=ALL_OUTPUTS) for x in sequences]
    with ThreadPoolExecutor(8) as pool:
        served = list(pool.map(lambda x: client.encode(x, outputs=ALL_OUTPUTS), sequences))
    for one, other in zip(served, alone, strict=True):
        assert_same(one, other)


# -- deadlines and retries on the wire --------------------------------------------------------


class Scripted(grpc.GenericRpcHandler):
    """Answers each method's calls with the statuses it is given, then with `reply`."""

    def __init__(self, reply: bytes, statuses: Sequence[grpc.StatusCode] = ()):
        self._reply = reply
        self._statuses = list(statuses)
        self.remaining: list[float | None] = []  # each call's seconds until its deadline
        self.sizes: list[int] = []  # each call's message, in bytes

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        return grpc.unary_unary_rpc_method_handler(self._answer)

    def _answer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.remaining.append(context.time_remaining())
        self.sizes.append(len(request))
        if self._statuses:
            context.abort(self._statuses.pop(0), "as the script says")
        return self._reply


ONE_ENCODING = pb.EncodeResponse(
    encodings=[pb.Encoding(states=tensors.encode(np.zeros((len(X), 1), "f4")))]
).SerializeToString()
Script = Callable[..., tuple[Scripted, str]]


@pytest.fixture
def script() -> Iterator[Script]:
    """Starts raw servers."""
    with ExitStack() as stack:

        def start(*statuses: grpc.StatusCode, reply: bytes = ONE_ENCODING) -> tuple[Scripted, str]:
            scripted = Scripted(reply, statuses)
            pool = stack.enter_context(ThreadPoolExecutor(4))
            server = grpc.server(pool, [scripted])
            port = server.add_insecure_port("127.0.0.1:0")
            server.start()
            stack.callback(lambda: server.stop(None).wait())
            return scripted, f"127.0.0.1:{port}"

        yield start


def test_outputs_of_a_newer_server(connect: Connect, script: Script) -> None:
    """An output that the client does not know is left out of a model's."""
    model = pb.Model(outputs=[pb.OUTPUT_STATES, cast(Any, 99), pb.OUTPUT_MAX])
    _, target = script(reply=pb.GetModelResponse(model=model).SerializeToString())
    assert connect(target).get_model().outputs == ("states", "max")


CALLS: dict[str, Callable[..., object]] = {
    "encode": lambda client, **options: client.encode(X, **options),
    "encode_batch": lambda client, **options: client.encode_batch([X], **options),
    "list_models": lambda client, **options: client.list_models(**options),
    "get_model": lambda client, **options: client.get_model(**options),
}


@pytest.mark.parametrize("call", CALLS)
def test_every_call_has_a_deadline(call: str, connect: Connect, script: Script) -> None:
    """A call carries its own timeout, else its client's, else one of 30 s."""
    scripted, target = script(reply=ONE_ENCODING if call.startswith("encode") else b"")
    CALLS[call](connect(target))
    CALLS[call](connect(target, timeout_seconds=2000.0))
    CALLS[call](connect(target), timeout_seconds=1000.0)
    default, of_client, of_call = scripted.remaining
    # gRPC rounds up by as much as 1 % on the way.
    assert default is not None
    assert 0 < default < 31
    assert of_client is not None
    assert 1100 < of_client < 2030
    assert of_call is not None
    assert 40 < of_call < 1030


def test_parts_share_a_deadline(connect: Connect, script: Script) -> None:
    """The timeout is for all of a batch's calls together: each has less of it than the last."""
    scripted, target = script(reply=ONE_ENCODING)  # as a model, it has no limits to speak of
    connect(target).encode_batch([X, X, X], timeout_seconds=1000.0)
    left = [cast(float, seconds) for seconds in scripted.remaining[1:]]  # the first is GetModel
    assert len(left) == 3
    assert max(left) < 1030


UNAVAILABLE, CANCELLED = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED


@pytest.mark.parametrize("steps", [7, 30_000], ids=["small", "over 256 KiB"])
@pytest.mark.parametrize("statuses", [(UNAVAILABLE, UNAVAILABLE), (CANCELLED, UNAVAILABLE)])
def test_retries(
    statuses: tuple[grpc.StatusCode, ...], steps: int, connect: Connect, script: Script
) -> None:
    """A call that the server can't take, or leaves unserved as it stops, is sent again, however
    large it is."""
    encoding = pb.Encoding(states=tensors.encode(np.zeros((steps, 1), "f4")))
    reply = pb.EncodeResponse(encodings=[encoding]).SerializeToString()
    scripted, target = script(*statuses, reply=reply)
    x = np.ones((steps, INPUT_SIZE), "f4")
    assert len(connect(target).encode(x).states) == steps
    assert len(scripted.sizes) == 3
    assert min(scripted.sizes) == max(scripted.sizes) >= x.nbytes


@pytest.mark.parametrize(("status", "kind"), [(UNAVAILABLE, Unavailable), (CANCELLED, Cancelled)])
def test_retries_end(
    status: grpc.StatusCode, kind: type[EncoderError], connect: Connect, script: Script
) -> None:
    """A server that goes on refusing is asked a few times, then the call is an error."""
    scripted, target = script(*[status] * 99)
    with pytest.raises(kind, match="as the script says") as caught:
        connect(target).encode(X)
    assert caught.value.code is status
    assert 3 <= len(scripted.sizes) <= 33


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (grpc.StatusCode.UNKNOWN, ServerError),
        (grpc.StatusCode.INTERNAL, ServerError),
        (grpc.StatusCode.UNIMPLEMENTED, ServerError),
        (grpc.StatusCode.PERMISSION_DENIED, ServerError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Overloaded),
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidInput),
        (grpc.StatusCode.NOT_FOUND, ModelNotFound),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineExceeded),
    ],
)
def test_other_statuses(
    status: grpc.StatusCode, kind: type[EncoderError], connect: Connect, script: Script
) -> None:
    """Any other status, also a proxy's without details, is a typed error, and is not retried."""
    scripted, target = script(status)
    with pytest.raises(EncoderError) as caught:
        connect(target).encode(X)
    assert type(caught.value) is kind
    assert caught.value.code is status
    assert "as the script says" in str(caught.value)
    assert len(scripted.sizes) == 1


# -- no torch ---------------------------------------------------------------------------------

# Modules of the extra [server]; the client must do without any of them.
SERVER_ONLY = (
    "torch",
    "safetensors",
    "pydantic",
    "pydantic_settings",
    "prometheus_client",
    "structlog",
    "grpc_reflection",
    "bilstm_server",
)

WITHOUT_SERVER = f"""
import sys
blocked = {SERVER_ONLY!r}
sys.modules.update(dict.fromkeys(blocked))  # None: importing it fails
import asyncio
import bilstm_client, bilstm_client.cli.main

async def encode(target):
    async with bilstm_client.AsyncClient(target) as client:
        return await client.encode([[0.5] * 5])

target = sys.argv[1]
with bilstm_client.Client(target) as client:
    states = client.encode([[0.5] * 5]).states
assert states.shape == (1, 12)
assert (asyncio.run(encode(target)).states == states).all()
loaded = [name for name, module in sys.modules.items() if module is not None]
print([name for name in loaded if name.split(".")[0] in blocked])
"""


def test_client_needs_no_torch(server: RunningServer) -> None:
    """Both clients and the shell command import nothing that only the server needs."""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_SERVER, server.target],
        capture_output=True,
        text=True,
        timeout=HANGS_AFTER_SECONDS,
    )
    assert (run.returncode, run.stdout) == (0, "[]\n"), run.stderr


def test_base_install_has_no_torch() -> None:
    """Torch, and all that only the server needs, are in the extra [server] alone."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    base = " ".join(project["dependencies"])
    server = " ".join(project["optional-dependencies"]["server"])
    for module in ("torch", "safetensors", "pydantic-settings", "prometheus-client", "structlog"):
        assert module in server
        assert module not in base
