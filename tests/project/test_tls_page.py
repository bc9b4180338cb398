"""docs/tls.md: what it says to type makes certificates and tokens that a server takes."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import grpc

from bilstm.v1 import encoder_pb2 as pb
from bilstm.v1 import encoder_pb2_grpc
from bilstm_server.security.tokens import parse_tokens
from bilstm_server.testing import server_process
from tests.support.waiting import HANGS_AFTER_SECONDS

PAGE = Path(__file__).parents[2] / "docs" / "tls.md"


def commands(word: str) -> str:
    """The block of shell commands that has this word."""
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    (found,) = (block for block in blocks if word in block)
    return str(found)


def typed(script: str, folder: Path) -> str:
    done = subprocess.run(
        ["bash", "-euc", script], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_certificates_and_tokens(tmp_path: Path) -> None:
    """The authorities, the certificates and the token of the page let a caller in."""
    typed(commands("/CN=Encoders"), tmp_path)
    for end in ("key", "pem"):
        shutil.copy(tmp_path / f"ca.{end}", tmp_path / f"caller-ca.{end}")
    typed(commands("/CN=search"), tmp_path)
    by_digest = typed(commands("openssl rand"), tmp_path)
    (line,) = (tmp_path / "tokens").read_text().splitlines()
    name, token = line.split(": ")
    assert (tmp_path / "tokens").stat().st_mode & 0o777 == 0o600
    assert parse_tokens(by_digest.encode()).find(token) is not None
    flags = [
        *(f"--tls-cert={tmp_path}/server.pem", f"--tls-key={tmp_path}/server.key"),
        f"--tls-client-ca={tmp_path}/caller-ca.pem",
        f"--tokens-file={tmp_path}/tokens",
    ]
    credentials = grpc.ssl_channel_credentials(
        *((tmp_path / file).read_bytes() for file in ("ca.pem", "search.key", "search.pem"))
    )
    with (
        server_process(*flags) as process,
        grpc.secure_channel(process.target, credentials) as channel,
    ):
        stub = encoder_pb2_grpc.EncoderServiceStub(channel)
        models = stub.ListModels(
            pb.ListModelsRequest(),
            timeout=HANGS_AFTER_SECONDS,
            metadata=(("authorization", f"Bearer {token}"),),
        )
        assert models.models
        assert name == "search"
        assert [e["event"] for e in process.log if e["level"] != "info"] == []
