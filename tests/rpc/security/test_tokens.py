"""Which calls are let in by their token, and what it may use."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from benchmarks.faults.wire import PatientConnection
from bilstm.v1 import encoder_pb2 as pb
from bilstm_server.app import App
from tests.rpc.security.callers import (
    OWN_CONNECTION,
    REQUEST,
    Metadata,
    bearer,
    encode_outcome,
    outcome,
    plain_channel,
    running,
    sample,
    secure_channel,
    stub_of,
)
from tests.rpc.security.conftest import Configure
from tests.security.authority import OTHER_TOKEN, TOKEN, Authority
from tests.support.waiting import HANGS_AFTER_SECONDS

OK = grpc.StatusCode.OK
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
PERMISSION_DENIED = grpc.StatusCode.PERMISSION_DENIED


def dropped(app: App, reason: str) -> float:
    return sample(app, "bilstm_dropped_total", model="", reason=reason)


PRESENTED: dict[str, tuple[Metadata, grpc.StatusCode]] = {
    "a token": (bearer(TOKEN), OK),
    "another spelling": ((("authorization", f"bearer  {TOKEN} "),), OK),
    "none": ((), UNAUTHENTICATED),
    "a wrong one": (bearer("x" * len(TOKEN)), UNAUTHENTICATED),
    "one that is nearly right": (bearer(TOKEN[:-1] + "2"), UNAUTHENTICATED),
    "a part of one": (bearer(TOKEN[:-1]), UNAUTHENTICATED),
    "more than one": (bearer(TOKEN + TOKEN), UNAUTHENTICATED),
    "an empty one": (bearer(""), UNAUTHENTICATED),
    "no scheme": ((("authorization", TOKEN),), UNAUTHENTICATED),
    "another scheme": ((("authorization", f"Basic {TOKEN}"),), UNAUTHENTICATED),
    "two": ((*bearer("x" * 40), *bearer(TOKEN)), UNAUTHENTICATED),
    "elsewhere": ((("token", TOKEN),), UNAUTHENTICATED),
    "a name": (bearer("search"), UNAUTHENTICATED),
}


@pytest.mark.parametrize("case", PRESENTED)
async def test_who_is_let_in(
    case: str, with_tls: Configure, authority: Authority, tokens: Path
) -> None:
    """A call with a token of the file is answered, and any other one refused and counted."""
    metadata, expected = PRESENTED[case]
    async with running(with_tls(tokens_file=tokens)) as app:
        assert await encode_outcome(secure_channel(app, authority), metadata) is expected
        refused = sum(
            sample(app, "bilstm_unauthorized_total", reason=reason)
            for reason in ("no_token", "wrong_token")
        )
        assert refused == dropped(app, "unauthorized") == (expected is UNAUTHENTICATED)


async def test_rights(configure: Configure, tokens: Path) -> None:
    """A token may be good for some models only. Calls for others are PERMISSION_DENIED, whether
    there is such a model or not, and its caller hears of no other."""
    async with running(configure(tokens_file=tokens)) as app, plain_channel(app) as channel:
        stub, own = stub_of(channel), {"metadata": bearer(OTHER_TOKEN)}
        for name in ("", "small", "no such model"):
            info = pb.GetModelRequest(model=name)
            stream = stub.EncodeStream(
                iter([pb.EncodeStreamRequest(options=pb.StreamOptions(model=name))]), **own
            )
            request = pb.EncodeRequest(model=name, sequences=REQUEST.sequences)
            for call in (stub.Encode(request, **own), stub.GetModel(info, **own), stream.read()):
                with pytest.raises(grpc.aio.AioRpcError) as refusal:
                    await call
                assert refusal.value.code() is PERMISSION_DENIED
                assert str(refusal.value.details()).endswith(", but: tokens")
        assert await outcome(stub.GetModel(pb.GetModelRequest(model="tokens"), **own)) is OK
        own_models = await stub.ListModels(pb.ListModelsRequest(), **own)
        assert [model.name for model in own_models.models] == ["tokens"]
        every = await stub.ListModels(pb.ListModelsRequest(), metadata=bearer(TOKEN))
        assert [model.name for model in every.models] == ["small", "tokens"]
        assert sample(app, "bilstm_unauthorized_total", reason="no_right") == 9
        assert dropped(app, "unauthorized") == 6  # those with tensors


@pytest.mark.parametrize("method", ["Encode", "EncodeStream", "ListModels"])
async def test_nothing_is_read_of_who_is_refused(
    method: str, configure: Configure, tokens: Path
) -> None:
    """A caller without a token is refused when it has sent nothing but headers."""
    async with running(configure(tokens_file=tokens)) as app:
        with PatientConnection(f"127.0.0.1:{app.port}") as peer:
            await asyncio.to_thread(peer.begin, f"/bilstm.v1.EncoderService/{method}")
            async with asyncio.timeout(HANGS_AFTER_SECONDS):
                while not peer.statuses:
                    await asyncio.to_thread(peer.pump, 0.1)
            assert peer.statuses == {1: str(UNAUTHENTICATED.value[0])}


async def test_a_unix_socket(configure: Configure, tokens: Path, tmp_path: Path) -> None:
    """A Unix socket needs no TLS, and its callers need tokens as all others."""
    target = f"unix:{tmp_path}/socket"
    async with running(configure(host=target, tokens_file=tokens)):
        for metadata, expected in ((bearer(TOKEN), OK), ((), UNAUTHENTICATED)):
            channel: Any = grpc.aio.insecure_channel(target, options=[OWN_CONNECTION])
            assert await encode_outcome(channel, metadata) is expected


async def test_tls_on_a_unix_socket(
    with_tls: Configure, authority: Authority, tmp_path: Path
) -> None:
    """Where certificates are given, a Unix socket speaks TLS, too."""
    target = f"unix:{tmp_path}/socket"
    async with running(with_tls(host=target)):
        credentials = grpc.ssl_channel_credentials(authority.certificate)
        options = [OWN_CONNECTION, ("grpc.ssl_target_name_override", "localhost")]
        channel = grpc.aio.secure_channel(target, credentials, options=options)
        assert await encode_outcome(channel) is OK
        plain = grpc.aio.insecure_channel(target, options=[OWN_CONNECTION])
        assert await encode_outcome(plain) is grpc.StatusCode.UNAVAILABLE
