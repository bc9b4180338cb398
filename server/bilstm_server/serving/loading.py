"""A model's way from its folder to a warm engine, beside those models that serve already."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from ..batching.device import Device
from ..engine.engine import Engine
from ..errors import DeviceLost, ModelError, OutOfMemory
from ..model.device import bound_memory, choose_device, choose_threads, use_tf32, use_threads
from ..settings import Settings

LoadEngine = Callable[[Path, Settings], Engine]


def load_engine(folder: Path, settings: Settings) -> Engine:
    """Read, pack and warm up the model in `folder`. Raises `ModelError`."""
    use_tf32(settings.float32_matmul_precision == "high")
    bound_memory(choose_device(settings.device), settings.max_device_bytes)
    with _model_errors(folder):
        engine = Engine.load(folder, settings.device, settings.dtype, settings.kernel)
        engine.warm_up(settings.max_batch_tokens)
    return engine


class Loader:
    """Loads models in a thread of its own, so that others are served meanwhile.

    torch gives each thread that runs its parallel code threads of its own, and where there are more
    than cores, all of them wait by sleeping, which slows down what serves. So the loading thread
    computes alone. What torch and its libraries keep for each thread, the compute thread gets in a
    turn of one step.
    """

    def __init__(self, settings: Settings, device: Device, load_engine: LoadEngine):
        self._settings = settings
        self._device = device
        self._load_engine = load_engine
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="load")
        self.threads = 0  # that compute on the CPU

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self.threads = choose_threads(self._settings.threads)
        await loop.run_in_executor(self._thread, use_threads, 1)
        # The last to say so speaks for the threads to come, too.
        await loop.run_in_executor(self._device.compute_thread, use_threads, self.threads)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def load(self, folder: Path) -> Engine:
        """The model in `folder`, warm. Raises `ModelError` if it can't be used."""
        loop = asyncio.get_running_loop()
        engine = await loop.run_in_executor(self._thread, self._load_engine, folder, self._settings)
        with _model_errors(folder):
            async with self._device.turn():
                await loop.run_in_executor(self._device.compute_thread, engine.warm_thread)
        return engine


@contextmanager
def _model_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OutOfMemory as error:
        raise ModelError(
            f"{folder}: the device's memory, or --max-device-bytes, does not hold the model and a "
            "batch of --max-batch-tokens"
        ) from error
    except DeviceLost as error:
        raise ModelError(f"{folder}: {error.__cause__}; --kernel reference may do") from error
