"""Uses of the client that type checkers must accept, with the types that they must see. Not run."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from pathlib import Path
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

from bilstm_client import (
    AsyncClient,
    Client,
    Encoding,
    EncodingChunk,
    InputInfo,
    Live,
    Model,
    NotTrusted,
    OutputInfo,
    PermissionDenied,
    Progress,
    SequenceFailure,
    State,
    Unauthenticated,
)

Array = NDArray[Any]
x = np.zeros((7, 12), np.float32)
pairs = [("a", x), ("b", x)]


def made() -> None:
    Client("localhost")
    Client("localhost:50051", timeout_seconds=5, metadata={"authorization": "Bearer x"})
    AsyncClient("localhost", metadata=[("x-one", "1"), ("x-id-bin", b"2")])
    Client("encoder", tls=True, token="t", client_certificate=("client.pem", Path("client.key")))
    Client("encoder", tls="ca.pem", token=Path("token"), server_name="encoder.example")
    AsyncClient("encoder", tls=Path("ca.pem"), token=lambda: "t")
    AsyncClient("encoder", tls=b"-----BEGIN", token=None, token_without_tls=True)
    Client("localhost", tls=False, token="")


def failures(client: Client) -> None:
    try:
        client.encode(x)
    except NotTrusted as error:
        assert_type(error.retry_after_seconds, float | None)
    except (Unauthenticated, PermissionDenied) as error:
        assert_type(error.message, str)


def calls(client: Client) -> None:
    encoding = client.encode(x)
    assert_type(encoding, Encoding)
    assert_type(encoding.states, Array)  # never None: no assert is needed
    assert_type(encoding.logits, Array)
    assert_type(encoding.state, State)
    assert_type(encoding.state.hidden, Array)
    assert_type(encoding.labels, Array)
    assert_type(encoding.probabilities, Array)
    assert_type(encoding.label_names, tuple[str, ...])
    assert_type(encoding["upos"], Array)
    assert_type(encoding["state"], State)
    assert_type("upos" in encoding, bool)
    assert_type(encoding.names_of("upos"), tuple[str, ...])
    assert_type([encoding[name] for name in encoding], list[Array])
    assert_type(encoding.label_names[int(encoding.labels)], str)
    client.encode({"tokens": [1, 2], "features": x}, outputs=["labels", "upos"])
    client.encode_batch([{"tokens": [1]}, {"tokens": [2, 3]}], outputs="upos")
    client.encode([[0.0, 1.0]], outputs="logits").logits.argmax()
    client.encode(x, outputs=["states", "state"], model="m", version="1", timeout_seconds=1)
    client.encode(x, initial_state=encoding.state, output_data_type="float16")
    client.encode(x, initial_state=(encoding.state.hidden, encoding.state.cell))
    assert_type(client.encode_batch([x, x], outputs=("final", "mean", "max")), list[Encoding])
    client.encode_batch((x for _ in range(3)), metadata={"x-request-id": "7"})
    assert_type(client.get_model(), Model)
    assert_type(client.get_model("m", "1", timeout_seconds=2).labels, tuple[str, ...])
    assert_type(client.get_model().inputs, tuple[InputInfo, ...])
    assert_type(client.get_model().output_infos, tuple[OutputInfo, ...])
    assert_type(client.list_models(metadata={}), list[Model])
    assert_type(client.is_ready(timeout_seconds=2), bool)
    client.wait_until_ready(60)
    client.wait_until_ready(timeout_seconds=60)
    assert_type(client.is_closed, bool)
    assert_type(client.target, str)
    with client as same:
        assert_type(same, Client)


def streams(client: Client) -> None:
    assert_type(client.encode_stream([x]), Generator[Encoding, None, None])
    assert_type(client.encode_stream(x), Generator[Encoding, None, None])
    assert_type(
        client.encode_stream(x, on_error="return"),
        Generator[Encoding | SequenceFailure, None, None],
    )
    assert_type(client.encode_stream(pairs), Generator[tuple[str, Encoding], None, None])
    assert_type(client.encode_stream(iter(pairs)), Generator[tuple[str, Encoding], None, None])
    assert_type(
        client.encode_stream([x], on_error="return"),
        Generator[Encoding | SequenceFailure, None, None],
    )
    assert_type(
        client.encode_stream(pairs, on_error="return"),
        Generator[tuple[str, Encoding | SequenceFailure], None, None],
    )
    client.encode_stream([x], in_flight=8, ordered=False, outputs="final", on_error="raise")
    assert_type(client.encode_stream([{"tokens": [1]}]), Generator[Encoding, None, None])
    client.encode_stream(
        pairs, save_states=lambda key: Path(key), progress=print, metadata={"x-team": "speech"}
    )
    for result in client.encode_stream([x], on_error="return"):
        if isinstance(result, SequenceFailure):
            assert_type(result.index, int | None)
        else:
            assert_type(result.states, Array)


def told(progress: Progress) -> None:
    assert_type(progress.steps_done, int)


def chunks(client: Client) -> None:
    assert_type(client.encode_chunks([x]), Generator[EncodingChunk[int], None, None])
    assert_type(client.encode_chunks(x), Generator[EncodingChunk[int], None, None])
    for chunk in client.encode_chunks(pairs, live=Live(block_steps=20, lookahead_steps=10)):
        assert_type(chunk.key, str)
        assert_type(chunk.error, SequenceFailure | None)
        assert_type(chunk.states, Array)
        assert_type(chunk.labels, Array)
        assert_type(chunk["upos"], Array)
        if chunk.encoding is not None:
            assert_type(chunk.encoding.final, Array)
    client.encode_stream([x], progress=told)


async def source() -> AsyncIterator[tuple[Path, Array]]:
    yield Path(), x


def chunks_of_one() -> Iterator[Array]:
    yield x


async def asynchronous(client: AsyncClient) -> None:
    encoding = await client.encode(x, outputs="logits")
    assert_type(encoding.logits, Array)
    assert_type(await client.encode_batch([x, x]), list[Encoding])
    assert_type(await client.get_model(), Model)
    assert_type(await client.list_models(), list[Model])
    assert_type(await client.is_ready(), bool)
    await client.wait_until_ready(60)
    assert_type(client.encode_stream([x]), AsyncGenerator[Encoding, None])
    assert_type(client.encode_stream(x), AsyncGenerator[Encoding, None])
    assert_type(client.encode_stream(pairs), AsyncGenerator[tuple[str, Encoding], None])
    assert_type(client.encode_stream(source()), AsyncGenerator[tuple[Path, Encoding], None])
    assert_type(
        client.encode_stream(source(), on_error="return"),
        AsyncGenerator[tuple[Path, Encoding | SequenceFailure], None],
    )
    async for chunk in client.encode_chunks([chunks_of_one()], live=Live(4)):
        assert_type(chunk, EncodingChunk[int])
    assert_type(client.encode_chunks(x), AsyncGenerator[EncodingChunk[int], None])
    assert_type(client.encode_chunks(source()), AsyncGenerator[EncodingChunk[Path], None])
    async with client as same:
        assert_type(same, AsyncClient)
