"""The certificate and the callers' token, swapped again and again under load: no call fails."""

from __future__ import annotations

import asyncio
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import trustme

from bilstm_client import AsyncClient, EncoderError

from .attacked import Attacked, attacked, seconds_until
from .findings import Finding

NAME = "swaps"
_SWAPS = 20
_RATE = 100.0  # calls a second
_EACH = 20  # calls of one client, then another connects: it sees the certificate of the moment
_HOST = "127.0.0.1"
_RELOAD_SECONDS = 10.0
_REST_SECONDS = 0.3  # under both the old token and the new one


def trial(swaps: int = _SWAPS) -> Iterator[Finding]:
    with tempfile.TemporaryDirectory() as folder:
        files = _Files(Path(folder))
        with attacked(*files.flags) as server:
            ends = asyncio.run(_call_while_swapping(server, files, swaps))
            errors = server.errors
    sent = f"up to {_RATE:.0f} calls/s, certificate and token swapped {swaps} times"
    yield Finding(NAME, sent, "calls", ends.total(), least=1)
    yield Finding(NAME, sent, "calls that failed", ends.total() - ends["OK"], most=0)
    for end in ends.keys() - {"OK"}:
        yield Finding(NAME, sent, f"ended as {end}", ends[end])
    yield Finding(NAME, sent, "reloads", files.swapped, least=2 * swaps)
    yield Finding(NAME, sent, "lines of errors in the server's log", len(errors), most=0)


class _Files:
    """The server's certificate and tokens, and the token file and authority of its callers."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._authority = trustme.CA()
        self.authority, self.token = folder / "ca.pem", folder / "token"
        self._authority.cert_pem.write_to_path(str(self.authority))
        self._number = 0
        self.swapped = 0  # times that the server has read them anew
        self._write_server(0)
        self._write("token", _token(0))
        self.flags = [f"--tls-cert={folder / 'tls.crt'}", f"--tls-key={folder / 'tls.key'}"]
        self.flags.append(f"--tokens-file={folder / 'tokens'}")

    def swap(self, server: Attacked) -> None:
        """As an operator would: the server takes both tokens, then callers take the new one, then
        the server lets go of the old one."""
        old, self._number = self._number, self._number + 1
        self._reload(server, old, self._number)
        self._write("token", _token(self._number))
        time.sleep(_REST_SECONDS)
        self._reload(server, self._number)

    def _reload(self, server: Attacked, *tokens: int) -> None:
        before = self._reloads(server)
        self._write_server(*tokens)
        server.server.send(signal.SIGHUP)
        taken = seconds_until(lambda: self._reloads(server) >= before + 2, _RELOAD_SECONDS)
        if taken >= _RELOAD_SECONDS:
            raise RuntimeError("the server has not read its files anew")
        self.swapped += 1

    @staticmethod
    def _reloads(server: Attacked) -> int:
        """Of certificates and of tokens."""
        return sum(event["event"] == "reloaded" for event in server.server.log)

    def _write_server(self, *tokens: int) -> None:
        issued = self._authority.issue_cert(_HOST)
        self._write("tls.crt", b"".join(pem.bytes() for pem in issued.cert_chain_pems).decode())
        self._write("tls.key", issued.private_key_pem.bytes().decode())
        self._write("tokens", "".join(f"caller: {_token(number)}\n" for number in tokens))

    def _write(self, name: str, content: str) -> None:
        whole = self._folder / f"{name}.new"
        whole.write_text(content)
        whole.chmod(0o600)
        whole.rename(self._folder / name)


def _token(number: int) -> str:
    return f"{number:040}"


async def _call_while_swapping(server: Attacked, files: _Files, swaps: int) -> Counter[str]:
    ends: Counter[str] = Counter()
    x = np.zeros((8, 12), np.float32)

    async def swap() -> None:
        for _ in range(swaps):
            await asyncio.to_thread(files.swap, server)

    async def call(client: Any) -> None:
        try:
            await client.encode(x, timeout_seconds=10.0)
            ends["OK"] += 1
        except EncoderError as error:
            ends[type(error).__name__] += 1

    async def call_in_turn() -> None:
        async with AsyncClient(
            server.target, tls=str(files.authority), token=files.token
        ) as client:
            for _ in range(_EACH):
                await call(client)
                await asyncio.sleep(4 / _RATE)

    async with asyncio.TaskGroup() as tasks:
        until = tasks.create_task(swap())

        async def callers() -> None:
            while not until.done():
                await call_in_turn()

        for _ in range(4):
            tasks.create_task(callers())
    return ends
