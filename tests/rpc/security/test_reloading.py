"""Certificates and tokens that change while calls are made, and files that can't be used."""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from bilstm_server.app import App
from bilstm_server.testing import ServerProcess, server_process
from tests.rpc.security.callers import (
    OWN_CONNECTION,
    REQUEST,
    bearer,
    encode_outcome,
    outcome,
    plain_channel,
    running,
    sample,
    secure_channel,
    stub_of,
    write_tokens,
)
from tests.rpc.security.conftest import Configure
from tests.security.authority import OTHER_TOKEN, TOKEN, Authority
from tests.security.files import swap_folder
from tests.support.waiting import HANGS_AFTER_SECONDS, until

OK = grpc.StatusCode.OK
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
PERMISSION_DENIED = grpc.StatusCode.PERMISSION_DENIED
SWAPS = 20
OF_THE_SHIPPED_MODEL = pb.EncodeRequest(sequences=[tensors.encode(np.ones((3, 12), "<f4"))])


class Secrets:
    """A folder of a server's secrets, as Kubernetes mounts it, in which token and certificate
    follow one another."""

    def __init__(self, folder: Path, authority: Authority):
        self.folder = folder
        self._authority = authority
        self.swaps = -1
        self.swap()

    @staticmethod
    def token(number: int) -> str:
        return f"token-{number:032}"

    def swap(self) -> None:
        """Put a new certificate in, and one more token beside the newest one of before."""
        self.swaps += 1
        key, chain = self._authority.issue().pair
        names = (f"app: {self.token(number)}\n" for number in (self.swaps, self.swaps + 1))
        files = {"tls.crt": chain, "tls.key": key, "tokens": "".join(names).encode()}
        swap_folder(self.folder, files)

    @property
    def flags(self) -> list[str]:
        names = {"tls-cert": "tls.crt", "tls-key": "tls.key", "tokens-file": "tokens"}
        return [f"--{flag}={self.folder / name}" for flag, name in names.items()]


class Load:
    """Callers that call all the time: some on one connection, some on a new one each time."""

    def __init__(self, target: str, authority: Authority, token: str):
        self._target = target
        self._credentials = grpc.ssl_channel_credentials(authority.certificate)
        self._token = token
        self._in_flight: Counter[str] = Counter()
        self.outcomes: Counter[grpc.StatusCode] = Counter()
        self.connections = 0

    async def use(self, token: str) -> None:
        """Call with this token from now on; no call with another one is in flight any more."""
        self._token = token
        await until(lambda: self._in_flight.total() == self._in_flight[token])

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        stop = asyncio.Event()
        callers = [
            asyncio.create_task(self._call(stop, calls_of_a_connection))
            for calls_of_a_connection in (1, 1, 10_000, 10_000)
        ]
        try:
            yield
        finally:
            stop.set()
            await asyncio.gather(*callers)

    async def _call(self, stop: asyncio.Event, calls_of_a_connection: int) -> None:
        while not stop.is_set():
            async with grpc.aio.secure_channel(
                self._target, self._credentials, options=[OWN_CONNECTION]
            ) as channel:
                self.connections += 1
                for _ in itertools.takewhile(
                    lambda _: not stop.is_set(), range(calls_of_a_connection)
                ):
                    token = self._token
                    self._in_flight[token] += 1
                    call = stub_of(channel).Encode(
                        OF_THE_SHIPPED_MODEL, timeout=HANGS_AFTER_SECONDS, metadata=bearer(token)
                    )
                    self.outcomes[await outcome(call)] += 1
                    self._in_flight[token] -= 1


def reloads(process: ServerProcess, event: str = "reloaded") -> int:
    return sum(each["event"] == event for each in process.log)


async def test_twenty_swaps_under_load(tmp_path: Path, authority: Authority) -> None:
    """Token and certificate are swapped twenty times, with the folder that holds them, while calls
    are made, on connections old and new: none fails."""
    (tmp_path / "mounted").mkdir()
    secrets = Secrets(tmp_path / "mounted", authority)
    with server_process(*secrets.flags) as process:
        target = process.target.replace("127.0.0.1", "localhost")
        load = Load(target, authority, secrets.token(0))
        async with load.running():
            for swap in range(1, SWAPS + 1):
                await load.use(secrets.token(swap))  # before the old one goes
                secrets.swap()
                process.send(signal.SIGHUP)
                async with asyncio.timeout(HANGS_AFTER_SECONDS):
                    while reloads(process) < 2 * swap:  # noqa: ASYNC110 (of another process)
                        await asyncio.sleep(0.01)
        metrics = process.metrics()
        assert reloads(process, "not reloaded") == 0
        lines = {line["setting"]: line for line in process.log if line["event"] == "reloaded"}
    of_tokens, of_certificate = lines["--tokens-file"], lines["--tls-cert, --tls-key"]
    assert (of_tokens["tokens"], of_tokens["callers"]) == (2, 1)
    assert datetime.fromisoformat(of_certificate["certificate_ends"]) > datetime.now(UTC)
    assert set(load.outcomes) == {OK}
    assert load.connections > SWAPS
    for setting in ("tls_cert", "tokens_file"):
        counted = f'bilstm_file_reloads_total{{outcome="accepted",setting="{setting}"}}'
        assert metrics[counted] == 1 + SWAPS


async def test_who_connects_gets_the_new_certificate(
    with_tls: Configure, authority: Authority, tmp_path: Path
) -> None:
    """When another authority vouches for the server, who trusts that one connects, and who trusts
    the first no more. A connection that is open stays."""
    other, files = Authority(tmp_path, "other"), authority.issue()
    async with running(with_tls(tls_cert=files.certificate, tls_key=files.key)) as app:
        async with secure_channel(app, authority) as before:
            assert await outcome(stub_of(before).Encode(REQUEST)) is OK
            key, chain = other.issue().pair
            files.key.write_bytes(key)
            files.certificate.write_bytes(chain)
            await reloaded(app, "tls_cert")
            assert await outcome(stub_of(before).Encode(REQUEST)) is OK
        assert await encode_outcome(secure_channel(app, other)) is OK
        assert await encode_outcome(secure_channel(app, authority)) is grpc.StatusCode.UNAVAILABLE


async def test_authorities_of_callers_change(
    with_tls: Configure, authority: Authority, tmp_path: Path
) -> None:
    """Whom the authorities of callers vouch for follows their file."""
    first, second = Authority(tmp_path, "first"), Authority(tmp_path, "second")
    path = tmp_path / "callers.pem"
    path.write_bytes(first.certificate)
    own, other = first.issue("a.example"), second.issue("b.example")
    async with running(with_tls(tls_client_ca=path)) as app:
        assert await encode_outcome(secure_channel(app, authority, own)) is OK
        path.write_bytes(second.certificate)
        await reloaded(app, "tls_client_ca")
        assert await encode_outcome(secure_channel(app, authority, other)) is OK
        refused = await encode_outcome(secure_channel(app, authority, own))
        assert refused is grpc.StatusCode.UNAVAILABLE


async def reloaded(app: App, setting: str, outcome: str = "accepted", times: int = 1) -> None:
    """Wait until the server has read a file anew so often, after its start."""
    app.reload()
    name = "bilstm_file_reloads_total"
    expected = times + (outcome == "accepted")
    await until(lambda: sample(app, name, setting=setting, outcome=outcome) == expected)


async def test_a_bad_file_keeps_what_was(
    with_tls: Configure, authority: Authority, tmp_path: Path
) -> None:
    """Files that can't be used change nothing: callers are served as before, and it shows in the
    metrics until the files are good again."""
    files = authority.issue()
    tokens = write_tokens(tmp_path / "tokens", f"search: {TOKEN}")
    good, whole = files.certificate.read_bytes(), tokens.read_bytes()
    configured = with_tls(tls_cert=files.certificate, tls_key=files.key, tokens_file=tokens)
    async with running(configured) as app:
        files.certificate.write_bytes(b"broken")
        tokens.unlink()
        for setting in ("tls_cert", "tokens_file"):
            await reloaded(app, setting, "refused")
            assert sample(app, "bilstm_file_refused", setting=setting) == 1
        assert await encode_outcome(secure_channel(app, authority), bearer(TOKEN)) is OK
        assert await encode_outcome(secure_channel(app, authority)) is UNAUTHENTICATED
        files.certificate.write_bytes(good)
        tokens.write_bytes(whole)
        for setting in ("tls_cert", "tokens_file"):
            await reloaded(app, setting)
            assert sample(app, "bilstm_file_refused", setting=setting) == 0


STREAMS: dict[str, tuple[str, grpc.StatusCode | None]] = {
    "withdrawn": (f"search: {OTHER_TOKEN}", UNAUTHENTICATED),
    "another name's": (f"bulk: {TOKEN}", None),
    "a right less": (f"search: {TOKEN} models=small", PERMISSION_DENIED),
    "one more": (f"search: {TOKEN}\nsearch: {OTHER_TOKEN}", None),
}


@pytest.mark.parametrize("case", STREAMS)
async def test_open_streams(case: str, configure: Configure, tmp_path: Path) -> None:
    """A stream whose token is withdrawn, or loses a right, ends with the reload; others go on."""
    lines, expected = STREAMS[case]
    path = write_tokens(tmp_path / "tokens", f"search: {TOKEN}")
    async with running(configure(tokens_file=path)) as app, plain_channel(app) as channel:
        stream: Any = stub_of(channel).EncodeStream(metadata=bearer(TOKEN))
        await stream.write(pb.EncodeStreamRequest(options=pb.StreamOptions()))
        assert (await stream.read()).HasField("opened")
        write_tokens(path, lines)
        await reloaded(app, "tokens_file")
        if expected is None:
            await stream.done_writing()
            assert await stream.read() is grpc.aio.EOF
        assert await stream.code() is (expected or OK)
        ended = sample(app, "bilstm_unauthorized_total", reason="removed_token")
        assert ended == (expected is not None)


async def test_files_are_looked_at_unasked(configure: Configure, tmp_path: Path) -> None:
    """A changed file is found without a signal."""
    path = write_tokens(tmp_path / "tokens", f"search: {TOKEN}")
    async with running(configure(tokens_file=path)) as app:
        write_tokens(path, f"search: {OTHER_TOKEN}")
        async with asyncio.timeout(HANGS_AFTER_SECONDS):
            while await encode_outcome(plain_channel(app), bearer(OTHER_TOKEN)) is not OK:
                pass
        assert await encode_outcome(plain_channel(app), bearer(TOKEN)) is UNAUTHENTICATED
