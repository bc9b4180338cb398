"""The contract alone is enough: a client made of `encoder.proto` and nothing else of this project.

The generated code runs in a process of its own, where no symbol of the project's is loaded.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bilstm_client import Client
from tests.support.servers import RunningServer

ROOT = Path(__file__).resolve().parents[2]
PROTO = ROOT / "proto" / "bilstm" / "v1" / "encoder.proto"
STUBS = ("encoder_pb2.py", "encoder_pb2.pyi", "encoder_pb2_grpc.py", "encoder_pb2_grpc.pyi")

# What a developer without this project's packages would write.
FOREIGN_CLIENT = """
import sys
import grpc
import numpy as np
import encoder_pb2, encoder_pb2_grpc

target, sequences_file, results_file = sys.argv[1:]
sequences = np.load(sequences_file)
request = encoder_pb2.EncodeRequest(
    model="small",
    outputs=[encoder_pb2.OUTPUT_STATES, encoder_pb2.OUTPUT_LOGITS],
    sequences=[
        encoder_pb2.Tensor(
            data_type=encoder_pb2.DATA_TYPE_FLOAT32,
            shape=sequences[name].shape,
            data=sequences[name].astype("<f4").tobytes(),
        )
        for name in sequences
    ],
)
with grpc.insecure_channel(target) as channel:
    stub = encoder_pb2_grpc.EncoderServiceStub(channel)
    reply = stub.Encode(request, timeout=30)
    assert [m.name for m in stub.ListModels(encoder_pb2.ListModelsRequest()).models] == [
        "small", "tokens"
    ]
results = {}
for name, encoding in zip(sequences, reply.encodings, strict=True):
    for output in ("states", "logits"):
        tensor = getattr(encoding, output)
        assert tensor.data_type == encoder_pb2.DATA_TYPE_FLOAT32
        results[f"{name}.{output}"] = np.frombuffer(tensor.data, "<f4").reshape(tensor.shape)
np.savez(results_file, **results)
assert not {"bilstm", "bilstm_client", "bilstm_server", "torch"} & set(sys.modules)
"""


def generate(proto_path: Path, proto: str, out: Path, *plugins: str) -> None:
    """Run grpcio-tools' protoc, as `make proto` does."""
    out.mkdir(parents=True, exist_ok=True)
    flags = [f"--{plugin}={out}" for plugin in ("python_out", "grpc_python_out", *plugins)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    run = subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={proto_path}", *flags, proto],
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr


def test_fresh_client(server: RunningServer, tmp_path: Path) -> None:
    """A client generated from the .proto alone gets the numbers that `Client` gets."""
    generate(PROTO.parent, PROTO.name, tmp_path)
    rng = np.random.default_rng(0)
    sequences = {f"s{n}": rng.standard_normal((n, 5), dtype=np.float32) for n in (4, 1, 9)}
    np.savez(tmp_path / "sequences.npz", **sequences)  # type: ignore[arg-type]
    run = subprocess.run(
        [sys.executable, "-c", FOREIGN_CLIENT, server.target, "sequences.npz", "results.npz"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    with Client(server.target) as client, np.load(tmp_path / "results.npz") as results:
        encodings = client.encode_batch(sequences.values(), outputs=["states", "logits"])
        for name, encoding in zip(sequences, encodings, strict=True):
            np.testing.assert_array_equal(results[f"{name}.states"], encoding.states)
            np.testing.assert_array_equal(results[f"{name}.logits"], encoding.logits)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with freshly generated stubs."""
    out = tmp_path_factory.mktemp("stubs")
    generate(ROOT / "proto", "bilstm/v1/encoder.proto", out, "mypy_out", "mypy_grpc_out")
    return out / "bilstm" / "v1"


@pytest.mark.parametrize("stub", STUBS)
def test_committed_stubs(stub: str, fresh: Path) -> None:
    """The committed stubs are what the .proto generates now."""
    assert (PROTO.parent / stub).read_text("utf-8") == (fresh / stub).read_text("utf-8")


def test_all_stubs_are_generated(fresh: Path) -> None:
    """There is no stub beside those that the .proto generates."""
    assert {path.name for path in fresh.iterdir()} == set(STUBS)
    assert {path.name for path in PROTO.parent.glob("*_pb2*")} == set(STUBS)
