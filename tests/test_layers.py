"""The layers: every module's imports, read off its source, point down only.

Knows where each room lies and which foreign libraries it may use; imports none of them.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "bilstm": ROOT / "proto" / "bilstm",
    "bilstm_client": ROOT / "client" / "bilstm_client",
    "bilstm_server": ROOT / "server" / "bilstm_server",
}
SERVER = "bilstm_server"

# From the top down: a module may import its own layer and those after it, and the ground.
LAYERS = tuple(
    f"{SERVER}.{layer}"
    for layer in (
        "testing",
        "__main__",
        "cli",
        "lifecycle",
        "app",
        "rpc",
        "serving",
        "batching",
        "engine",
        "model",
        "model.kernels",
    )
)
GROUND = tuple(
    f"{SERVER}.{module}"
    for module in (
        "addresses",
        "errors",
        "heap",
        "logs",
        "metrics",
        "probes",
        "settings",
        "sources",
        "stderr",
        "tallies",
        "threads",
        "tracing",
    )
)

# A foreign library -> the only rooms that may import it.
CONFINED = {
    "torch": (
        f"{SERVER}.model",
        f"{SERVER}.engine",
    ),
    "triton": (f"{SERVER}.model.kernels",),
    "grpc": (
        f"{SERVER}.rpc",
        f"{SERVER}.app",
        "bilstm_client",
        "bilstm.v1.encoder_pb2_grpc",  # generated
    ),
    "prometheus_client": (f"{SERVER}.metrics", f"{SERVER}.tallies"),
    "opentelemetry": (f"{SERVER}.tracing",),
}
# Libraries that are parts of a confined one.
PARTS = {"grpc_health": "grpc", "grpc_reflection": "grpc", "grpc_status": "grpc"}

# -- the checker ------------------------------------------------------------------------------


def imports_of(source: str, module: str, is_package: bool = False) -> set[str]:
    """Absolute names of all that a module imports, at its top or inside of functions.

    `from a import b` counts as `a` and `a.b`: b may be a module.
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                parents = module.split(".")
                kept = len(parents) - node.level + is_package
                origin = ".".join(parents[:kept] + ([origin] if origin else []))
            names |= {origin} | {f"{origin}.{alias.name}" for alias in node.names}
    return names


def lies_in(name: str, room: str) -> bool:
    return name == room or name.startswith(f"{room}.")


def depth(name: str) -> int | None:
    """How far down in LAYERS a module lies; None if in none."""
    return max((i for i, layer in enumerate(LAYERS) if lies_in(name, layer)), default=None)


def points_up(module: str, imported: str) -> bool:
    """Whether one module of the server imports another one above it."""
    target = depth(imported)
    if target is None:
        return False
    if any(lies_in(module, room) for room in GROUND):
        return True
    own = depth(module)
    return own is not None and target < own


def crosses(module: str, imported: str) -> bool:
    """Whether the import leads from one package to one that it must not know."""
    forbidden = {
        "bilstm": ("bilstm_client", SERVER),
        "bilstm_client": (SERVER,),
        SERVER: ("bilstm_client",),
    }
    return any(lies_in(imported, package) for package in forbidden[module.split(".")[0]])


def escapes(module: str, imported: str) -> bool:
    """Whether the import takes a confined library out of its rooms."""
    library = imported.split(".")[0]
    rooms = CONFINED.get(PARTS.get(library, library))
    return rooms is not None and not any(lies_in(module, room) for room in rooms)


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
    """Every import of the module that breaks a rule."""
    return [
        f"{module} imports {imported}"
        for imported in sorted(imports_of(source, module, is_package))
        if points_up(module, imported) or crosses(module, imported) or escapes(module, imported)
    ]


def modules() -> Iterator[tuple[str, Path]]:
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            name = ".".join((package, *(p for p in parts if p != "__init__")))
            yield name, path


# -- the claims -------------------------------------------------------------------------------


@pytest.mark.parametrize(("module", "path"), [pytest.param(*m, id=m[0]) for m in modules()])
def test_imports_point_down(module: str, path: Path) -> None:
    """A module imports only its own layer, those below it, and libraries that it may use."""
    assert violations(path.read_text("utf-8"), module, path.name == "__init__.py") == []


def test_every_module_has_a_layer() -> None:
    """No module of the server lies outside of the layers and the ground, where no rule holds."""
    homeless = [
        module
        for module, _ in modules()
        if module.startswith(f"{SERVER}.")
        and depth(module) is None
        and not any(lies_in(module, room) for room in GROUND)
    ]
    assert homeless == []


def test_every_layer_exists() -> None:
    """The rules speak of modules that are there, so that none is held to nothing."""
    there = {module for module, _ in modules()}
    rooms = {room for rooms in CONFINED.values() for room in rooms}
    assert {*LAYERS, *GROUND, *rooms} <= there


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("bilstm_server.model.encoder", "from ..batching.queue import BatchQueue"),
        ("bilstm_server.model.encoder", "from .. import batching"),
        ("bilstm_server.model.encoder", "import bilstm_server.rpc.encoder.service"),
        ("bilstm_server.model.kernels.reference", "from ..config import ModelConfig"),
        ("bilstm_server.model.kernels.reference", "from .. import bilstm"),
        ("bilstm_server.batching.queue", "from ..rpc.status import drop_reason"),
        ("bilstm_server.batching.queue", "import torch"),
        ("bilstm_server.engine.engine", "import grpc"),
        ("bilstm_server.rpc.encoder.service", "from ...app import App"),
        ("bilstm_server.rpc.encoder.service", "import torch.nn.functional as F"),
        ("bilstm_server.rpc.encoder.service", "from prometheus_client import Counter"),
        ("bilstm_server.rpc.interceptors.chain", "from opentelemetry import trace"),
        ("bilstm_server.app", "from .cli import main"),
        ("bilstm_server.errors", "from .model.config import Output"),
        ("bilstm_server.metrics", "def late():\n    from .batching import queue"),
        ("bilstm_server.settings", "from grpc_health.v1 import health"),
        ("bilstm_server.logs", "from .app import App"),
        ("bilstm_server.cli", "from bilstm_client import Client"),
        ("bilstm_client.client", "from bilstm_server.errors import Overloaded"),
        ("bilstm_client.client", "def late():\n    import torch"),
        ("bilstm.tensors", "from bilstm_server.errors import InvalidInput"),
        ("bilstm.tensors", "from bilstm_client import errors"),
        ("bilstm.tensors", "import grpc"),
        ("bilstm.tensors", "if TYPE_CHECKING:\n    import torch"),
    ],
)
def test_checker_catches(module: str, line: str) -> None:
    """The checker names an import that points up or leads out, wherever in a module it stands."""
    assert violations(line, module) != []


def test_checker_catches_in_a_package() -> None:
    """A relative import is resolved from the package itself in its `__init__`."""
    assert imports_of("from .kernels import x", "bilstm_server.model", is_package=True) == {
        "bilstm_server.model.kernels",
        "bilstm_server.model.kernels.x",
    }
    assert violations("from ..rpc import status", "bilstm_server.model", is_package=True) != []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("bilstm_server.cli", "from .lifecycle import serve"),
        ("bilstm_server.app", "from .rpc.encoder.service import EncoderService\nimport grpc"),
        ("bilstm_server.rpc.encoder.requests", "from ...model.config import Output"),
        ("bilstm_server.engine.engine", "import torch\nfrom ..errors import OutOfMemory"),
        ("bilstm_server.model.bilstm", "from .kernels import Kernel"),
        ("bilstm_client.aio", "import grpc.aio\nfrom bilstm.v1 import encoder_pb2"),
    ],
)
def test_checker_lets_pass(module: str, line: str) -> None:
    """The checker has nothing against an import that points down."""
    assert violations(line, module) == []
