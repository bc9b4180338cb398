"""Uses of the client that type checkers must refuse: each line that ends so. Not run."""

from __future__ import annotations

from bilstm_client import AsyncClient, Client, Encoding, EncodingChunk, Live

x = [[0.0] * 12]


async def wait_for_token() -> str:
    return ""


def calls(client: Client, encoding: Encoding) -> None:
    Client(50051)  # refused
    Client("localhost", timeout_seconds="5")  # refused
    Client("localhost", metadata={"x-team": 7})  # refused
    Client("localhost", tls=7)  # refused
    Client("localhost", client_certificate="client.pem")  # refused
    Client("localhost", token=b"t")  # refused
    Client("localhost", token=lambda: 7)  # refused
    AsyncClient("localhost", token=wait_for_token)  # refused
    client.encode(x, outputs=7)  # refused
    client.encode(x, outputs=["states", 7])  # refused
    client.encode(x, output_data_type="float64")  # refused
    client.encode(x, output="states")  # refused
    client.encode(x, "states")  # refused
    client.encode_batch(7)  # refused
    client.wait_until_ready(timeout="5")  # refused
    client.get_model(1)  # refused
    encoding.scores  # noqa: B018 # refused
    encoding.states = encoding.final  # refused
    encoding.states.hidden  # noqa: B018 # refused
    encoding["labels"].label_names  # noqa: B018 # refused
    encoding["labels"] = encoding.labels  # refused
    encoding[0]  # refused


def streams(client: Client, chunk: EncodingChunk[str]) -> None:
    client.encode_stream([x], on_error="ignore")  # refused
    client.encode_stream([x], in_flight="8")  # refused
    client.encode_stream([x], live=Live(4))  # refused
    client.encode_stream([x], progress=7)  # refused
    client.encode_chunks([x], save_states=print)  # refused
    client.encode_chunks([x], live=4)  # refused
    for result in client.encode_stream([x], on_error="return"):
        result.states  # noqa: B018 # refused
    chunk.encoding.final  # noqa: B018 # refused
    chunk.last = True  # refused


async def asynchronous(client: AsyncClient) -> None:
    client.encode(x).states  # noqa: B018 # refused
    for _ in client.encode_stream([x]):  # refused
        pass
    with client:  # refused
        pass
    await client.encode_stream([x])  # refused
    await client.encode(x, outputs=7)  # refused
