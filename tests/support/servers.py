"""A real server on a free port, its settings, and the random models that it serves."""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import Future
from pathlib import Path

import torch

from bilstm_server.app import App
from bilstm_server.model import PlainConfig, SequenceEncoder, save_model
from bilstm_server.serving.loading import LoadEngine, load_engine
from bilstm_server.settings import Settings


def start_error(stderr: str) -> str:
    """Why a server that logs JSON, and nothing else, did not start: its last event's reason."""
    last = [json.loads(line) for line in stderr.splitlines()][-1]
    assert (last["event"], last["level"]) == ("can't start", "error")
    return str(last["reason"])


def plain_config(**config: object) -> PlainConfig:
    """The config of `write_model`."""
    defaults = {"input_size": 5, "hidden_size": 6, "num_layers": 2}
    return PlainConfig.model_validate(defaults | config)


def write_model(folder: Path, seed: int = 0, **config: object) -> Path:
    """A random model folder, of an embedding, a BiLSTM and a head."""
    torch.manual_seed(seed)
    save_model(SequenceEncoder(plain_config(**config).graph()), folder)
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
