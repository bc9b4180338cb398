"""What several files' tests need: a real server on a free port, and the CPU kernel compiled."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():  # set before the gpu kernel is imported
    os.environ["TRITON_INTERPRET"] = "1"

from bilstm_server.app import App
from bilstm_server.model import ModelConfig, SequenceEncoder, save_model
from bilstm_server.model.kernels.cpu import build, kernel
from bilstm_server.model.kernels.cpu.build import VARIANTS, BuildError, Variant
from bilstm_server.serving.loading import LoadEngine, load_engine
from bilstm_server.settings import Settings


def start_error(stderr: str) -> str:
    """Why a server that logs JSON, and nothing else, did not start: its last event's reason."""
    last = [json.loads(line) for line in stderr.splitlines()][-1]
    assert (last["event"], last["level"]) == ("can't start", "error")
    return str(last["reason"])


def write_model(folder: Path, seed: int = 0, **config: object) -> Path:
    """A random model folder."""
    torch.manual_seed(seed)
    defaults = {"input_size": 5, "hidden_size": 6, "num_layers": 2}
    save_model(SequenceEncoder(ModelConfig.model_validate(defaults | config)), folder)
    return folder


class RunningServer:
    """An `App` that serves from a thread with an event loop of its own, until `close`."""

    def __init__(self, settings: Settings, load_engine: LoadEngine = load_engine):
        self._started: Future[App] = Future()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(settings, load_engine))
        )
        self._thread.start()
        self.app = self._started.result(timeout=60)
        self.target = f"127.0.0.1:{self.app.port}"
        self.metrics_url = f"http://127.0.0.1:{self.app.metrics_port}/metrics"

    async def _serve(self, settings: Settings, load_engine: LoadEngine) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            async with App(settings, load_engine) as app:
                await app.load()
                self._started.set_result(app)
                await self._stop.wait()
        except BaseException as error:
            if not self._started.done():
                self._started.set_exception(error)
            raise

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=60)


def settings(**values: object) -> Settings:
    """Settings for a test: free ports, and nothing from the environment but `values`."""
    return Settings.model_validate({"port": 0, "metrics_port": 0, **values})


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model with a head: input 5, hidden 6, 2 layers, 3 classes."""
    return write_model(
        tmp_path_factory.mktemp("models") / "small",
        head={"num_classes": 3, "pooling": "mean"},
        labels=["red", "green", "blue"],
    )


@pytest.fixture(scope="session")
def token_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model over 20 token ids, without a head."""
    return write_model(
        tmp_path_factory.mktemp("models") / "tokens", seed=1, embedding={"num_embeddings": 20}
    )


@pytest.fixture(scope="session")
def server(model_folder: Path, token_model_folder: Path) -> Iterator[RunningServer]:
    """A server with both models, shared by the tests that leave it as it is."""
    running = RunningServer(
        settings(model=[("small", model_folder), ("tokens", token_model_folder)])
    )
    yield running
    running.close()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Threads that share tensors this small only wait for one another, five times as long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# -- the CPU kernel ---------------------------------------------------------------------------

TILES = ["-I", str(Path(__file__).parent)]  # emulated_tiles.h, where there are none
SANITIZERS = ["-O2", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--sanitize",
        action="store_true",
        help="compile the CPU kernel with sanitizers, whose runtime is preloaded (make sanitize)",
    )


def knows(compiler: list[str], variant: Variant) -> bool:
    """Whether the compiler has the variant's instructions at all."""
    command = [*compiler, *variant.flags, "-x", "c++", "-fsyntax-only", "/dev/null"]
    return subprocess.run(command, capture_output=True).returncode == 0


@pytest.fixture(scope="session")
def compiled(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Variant], Path]]:
    """Gives the library of a variant, compiled in a temporary place.

    Of instructions that this CPU or compiler lacks, portable code does the work: layouts, tails
    and tiles are the variant's all the same.
    """
    folder = tmp_path_factory.mktemp("kernels")
    more = SANITIZERS if pytestconfig.getoption("--sanitize") else []
    try:
        compiler = build.find_compiler()
    except BuildError as error:
        pytest.skip(str(error))
    if not build.runnable():
        pytest.skip(build.NO_VARIANT)

    def compile_variant(variant: Variant) -> Path:
        library = folder / f"{variant.name}.so"
        if variant not in build.runnable() or not knows(compiler, variant):
            variant = dataclasses.replace(variant, flags=VARIANTS[-1].flags)
        build.compile_library([*variant.command(compiler), *TILES, *more], library)
        return library

    with ThreadPoolExecutor(2) as threads:  # several seconds each, while the tests run
        libraries = {v.name: threads.submit(compile_variant, v) for v in reversed(VARIANTS)}
        yield lambda variant: libraries[variant.name].result()


@pytest.fixture
def build_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder in place of the one where compiled kernels lie."""
    folder = tmp_path / "build"
    monkeypatch.setattr(build, "_COMPILED", folder)
    kernel.load.cache_clear()
    yield folder
    kernel.load.cache_clear()


@pytest.fixture
def installed(build_folder: Path, compiled: Callable[[Variant], Path]) -> Path:
    """The fastest kernel that this CPU runs, where it is looked for."""
    fastest = build.runnable()[0]
    build_folder.mkdir()
    fastest.library().symlink_to(compiled(fastest))
    return fastest.library()
