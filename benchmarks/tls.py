"""What TLS and tokens cost: small requests to the same server in plain text, over TLS, and with
tokens.

    python -m benchmarks.tls

Four servers in processes of their own, loaded in turn in short blocks: in plain text; over TLS;
over TLS with a token in each call, of a file of a hundred; and over TLS with a certificate of the
caller's. The load generator runs in this process, and pays for its side of TLS on the same machine.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
import tempfile
from collections.abc import Awaitable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import trustme

from benchmarks.load import closed_loop
from benchmarks.overhead import ENCODE, STEPS, WIDTH, ServerLoad, observe
from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb
from bilstm_server.testing import ServerProcess, server_process

CALLERS = 64
TOKENS = 100  # in the file
PLAIN, TLS, TOKEN, CERTIFICATE = "plain text", "TLS", "TLS, token", "TLS, certificate"
ALLOWED_TLS_COST = 0.15  # of the calls a second in plain text
ALLOWED_TOKEN_COST = 0.03  # of those over TLS: what one run tells from nothing
_WARM_UP_SECONDS = 1.0


@dataclass(frozen=True)
class Secrets:
    """What servers and callers are given, in files of a folder."""

    authority: Path
    certificate: Path
    key: Path
    tokens: Path
    token: str  # the last one of the file

    @classmethod
    def make(cls, folder: Path) -> Secrets:
        authority = trustme.CA()
        issued = authority.issue_cert("localhost", "127.0.0.1")
        made = [secrets.token_hex(32) for _ in range(TOKENS)]
        paths = [folder / name for name in ("authority.pem", "server.pem", "server.key", "tokens")]
        chain = b"".join(each.bytes() for each in issued.cert_chain_pems)
        lines = "".join(f"app{number}: {token}\n" for number, token in enumerate(made))
        contents = (
            *(authority.cert_pem.bytes(), chain, issued.private_key_pem.bytes()),
            lines.encode(),
        )
        for path, data in zip(paths, contents, strict=True):
            path.write_bytes(data)
            path.chmod(0o600)
        authority_file, certificate, key, tokens = paths
        return cls(authority_file, certificate, key, tokens, made[-1])

    @property
    def flags(self) -> dict[str, tuple[str, ...]]:
        """The flags of each server."""
        tls = (f"--tls-cert={self.certificate}", f"--tls-key={self.key}")
        return {
            PLAIN: (),
            TLS: tls,
            TOKEN: (*tls, f"--tokens-file={self.tokens}"),
            CERTIFICATE: (*tls, f"--tls-client-ca={self.authority}"),
        }

    def channel(self, name: str, server: ServerProcess) -> grpc.aio.Channel:
        """A connection to the server of that name."""
        if name == PLAIN:
            return grpc.aio.insecure_channel(server.target)
        own = (self.key.read_bytes(), self.certificate.read_bytes())
        key, chain = own if name == CERTIFICATE else (None, None)
        credentials = grpc.ssl_channel_credentials(self.authority.read_bytes(), key, chain)
        return grpc.aio.secure_channel(server.target, credentials)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=0.25, help="of each server in each round")
    parser.add_argument("--rounds", type=int, default=101)
    parser.add_argument("--check", action="store_true", help="fail if more than what is allowed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        given = Secrets.make(Path(folder))
        servers = {
            name: running.enter_context(server_process(*flags))
            for name, flags in given.flags.items()
        }
        loads = asyncio.run(_measure(given, servers, arguments.seconds, arguments.rounds))
    return _report(loads, arguments.check)


async def _measure(
    given: Secrets, servers: dict[str, ServerProcess], seconds: float, rounds: int
) -> dict[str, ServerLoad]:
    """Load all in turn, each round the other way round than the one before."""
    loads = {name: ServerLoad() for name in servers}
    async with AsyncExitStack() as connected:
        channels = {
            name: await connected.enter_async_context(given.channel(name, server))
            for name, server in servers.items()
        }
        metadata = {TOKEN: (("authorization", f"Bearer {given.token}"),)}

        def load(name: str, seconds: float) -> Awaitable[list[float]]:
            return _closed_loop(channels[name], metadata.get(name, ()), seconds)

        for name in servers:
            await load(name, _WARM_UP_SECONDS)
        for number in range(rounds):
            for name in list(servers)[:: -1 if number % 2 else 1]:
                process = psutil.Process(servers[name].pid)
                await observe(loads[name], process, load(name, seconds))
    return loads


def _closed_loop(
    channel: grpc.aio.Channel, metadata: tuple[tuple[str, str], ...], seconds: float
) -> Awaitable[list[float]]:
    sequence = np.random.default_rng(0).standard_normal((STEPS, WIDTH), dtype=np.float32)
    request = pb.EncodeRequest(sequences=[tensors.encode(sequence)], outputs=[pb.OUTPUT_FINAL])
    data = request.SerializeToString()
    encode: Any = channel.unary_unary(ENCODE)
    return closed_loop(lambda index: encode(data, metadata=metadata), CALLERS, seconds)


def _report(loads: dict[str, ServerLoad], check: bool) -> int:
    plain = loads[PLAIN]
    print(
        f"{CALLERS} callers in a closed loop on one connection, {STEPS} steps of {WIDTH} each, "
        f"final outputs only;\nmedians of {len(plain.rates)} rounds, also of their own ratios to "
        "plain text"
    )
    columns = ("req/s", "of plain", "p50 ms", "p99 ms", "CPU us/req", "of plain")
    print(" " * 18 + "".join(f"{column:>12}" for column in columns))
    for name, load in loads.items():
        row = f"{name:18}{load.rate:12.0f}{load.share_of(plain):12.1%}"
        row += f"{load.percentile(0.5):12.1f}{load.percentile(0.99):12.1f}"
        print(f"{row}{1e6 * load.cpu:12.0f}{load.cpu / plain.cpu:12.1%}")
    costs = (
        ("TLS", 1 - loads[TLS].share_of(plain), ALLOWED_TLS_COST),
        ("a token", 1 - loads[TOKEN].share_of(loads[TLS]), ALLOWED_TOKEN_COST),
    )
    for what, cost, _ in costs:
        print(f"{what} costs {cost:.1%} of the calls a second")
    missed = [(what, cost, allowed) for what, cost, allowed in costs if cost > allowed]
    for what, cost, allowed in missed if check else ():
        print(f"FAIL: {what} costs {cost:.1%}, not at most {allowed:.0%}")
    return int(check and bool(missed))


if __name__ == "__main__":
    sys.exit(main())
