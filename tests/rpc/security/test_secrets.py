"""A token that was given is not seen anywhere."""

from __future__ import annotations

import json
import signal
import time
from hashlib import sha256
from pathlib import Path
from urllib.request import urlopen

import grpc

from bilstm.v1 import encoder_pb2 as pb
from bilstm.v1 import encoder_pb2_grpc
from bilstm_server.testing import ServerProcess, server_process
from tests.rpc.security.callers import REQUEST, bearer, write_tokens
from tests.security.authority import OTHER_TOKEN, TOKEN, Authority
from tests.support.waiting import HANGS_AFTER_SECONDS

PRESENTED = "presented-by-somebody-who-has-none-of-the-tokens"


def said_to_callers(target: str, authority: Authority) -> list[str]:
    """All that callers are told, with a good token and bad ones, right requests and wrong ones."""
    said: list[str] = []
    credentials = grpc.ssl_channel_credentials(authority.certificate)
    with grpc.secure_channel(target, credentials) as channel:
        stub = encoder_pb2_grpc.EncoderServiceStub(channel)
        for metadata in (bearer(TOKEN), bearer(PRESENTED), (("authorization", PRESENTED),), ()):
            for request in (REQUEST, pb.EncodeRequest(), pb.EncodeRequest(model="none")):
                try:
                    reply = stub.Encode(request, timeout=HANGS_AFTER_SECONDS, metadata=metadata)
                    said.append(str(reply))
                except grpc.RpcError as error:
                    said.append(f"{error.details()} {error.trailing_metadata()} {error}")
    return said


def said_over_http(process: ServerProcess) -> list[str]:
    base = process.metrics_url.removesuffix("/metrics")
    pages = ("", "/metrics", "/readyz", "/healthz")
    return [urlopen(base + page, timeout=HANGS_AFTER_SECONDS).read().decode() for page in pages]


def reload(process: ServerProcess, tokens: Path, line: str, event: str) -> None:
    """Change the file, and wait until the server has said what it thinks of it."""
    before = [each["event"] for each in process.log].count(event)
    tokens.write_text(line)
    process.send(signal.SIGHUP)
    give_up_at = time.monotonic() + HANGS_AFTER_SECONDS
    while [each["event"] for each in process.log].count(event) == before:
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


def test_no_secret_is_seen(authority: Authority, tmp_path: Path) -> None:
    """Neither tokens, of the file or presented, nor their digests, nor the key are in the log, the
    metrics, the pages, an error, a reply, or what others see of the process."""
    files = authority.issue()
    tokens = write_tokens(tmp_path / "tokens", f"search: {TOKEN}", f"bulk: {OTHER_TOKEN}")
    flags = [f"--tls-cert={files.certificate}", f"--tls-key={files.key}"]
    with server_process(*flags, f"--tokens-file={tokens}") as process:
        target = process.target.replace("127.0.0.1", "localhost")
        said = said_to_callers(target, authority)
        reload(process, tokens, f"{TOKEN}\n{OTHER_TOKEN}", "not reloaded")
        reload(process, tokens, f"{TOKEN}: search", "not reloaded")
        reload(process, tokens, f"search: {TOKEN} {OTHER_TOKEN}", "not reloaded")
        reload(process, tokens, f"search: {TOKEN}\nbulk: {OTHER_TOKEN}\n#", "reloaded")
        said += said_to_callers(target, authority)
        said += said_over_http(process)
        of_the_process = Path(f"/proc/{process.pid}")
        said += [(of_the_process / name).read_text("latin-1") for name in ("cmdline", "environ")]
        assert process.stop() == 0
        said += [json.dumps(event) for event in process.log] + process.lines
    key_lines = files.key.read_text().splitlines()[1:-1]
    digests = [sha256(token.encode()).hexdigest() for token in (TOKEN, OTHER_TOKEN)]
    everything = "\n".join(said)
    for secret in (TOKEN, OTHER_TOKEN, PRESENTED, *digests, *key_lines):
        assert secret not in everything
        assert secret[:20] not in everything
    assert "bulk" not in everything  # a name is seen where its caller has called
    assert "the token is none that this server knows" in everything
