"""The contracts on imports, in pyproject.toml. `make check` holds the code to them; here each is
seen to break where it should.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("proto/bilstm", "client/bilstm_client", "server/bilstm_server")

# A contract -> an import that breaks it, and the module where it is planted.
PLANTED = {
    "Client and server know the proto, and not each other": (
        "client/bilstm_client/errors.py",
        "from bilstm_server import errors",
    ),
    "The server's layers": (
        "server/bilstm_server/batching/queue.py",
        "def late():\n    from ..serving import registry",
    ),
    "The client's layers": (
        "client/bilstm_client/_calls/messages.py",
        "from .._streams import stream",
    ),
    "The model's layers": (
        "server/bilstm_server/model/kernels/ragged.py",
        "from ..config import ModelConfig",
    ),
    "No circles": ("server/bilstm_server/model/kernels/reference.py", "from .. import bilstm"),
    "torch in model/, engine/ and exporting/ only": (
        "server/bilstm_server/batching/queue.py",
        "import torch.nn.functional",
    ),
    "Decisions know no clock, thread, loop or tensor": (
        "server/bilstm_server/batching/admission.py",
        "import time",
    ),
    "grpc and protobuf in rpc/, the client, and the proof that asks as one, only": (
        "server/bilstm_server/app.py",
        "from grpc_health.v1 import health",
    ),
    "h5py and onnx where their files are read only": (
        "server/bilstm_server/model/storage/folder.py",
        "import h5py",
    ),
    "prometheus_client in metrics/ only": (
        "server/bilstm_server/app.py",
        "from prometheus_client import Counter",
    ),
    "cryptography in security/ only": (
        "server/bilstm_server/rpc/server.py",
        "from cryptography import x509",
    ),
    "OpenTelemetry in tracing.py only": (
        "server/bilstm_server/app.py",
        "from opentelemetry import trace",
    ),
}


def test_each_contract_can_break(tmp_path: Path) -> None:
    """A contract names an import that it forbids, wherever in a module that stands."""
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "*.so")
        )
    for module, line in PLANTED.values():
        with (tmp_path / module).open("a") as file:
            file.write(f"\n{line}\n")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    contracts = {c["name"] for c in settings["tool"]["importlinter"]["contracts"]}
    assert contracts == set(PLANTED)
    paths = [str(tmp_path / package.partition("/")[0]) for package in PACKAGES]
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", ROOT / "pyproject.toml", "--no-cache"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert set(re.findall(r"^(.+) BROKEN$", done.stdout, re.MULTILINE)) == contracts
