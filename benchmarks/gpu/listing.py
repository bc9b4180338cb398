"""A stand-in for Triton's driver, for machines without a GPU: kernels are compiled for one that is
not there, and what would be launched is listed instead.

For a process of its own, without TRITON_INTERPRET.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from bilstm_server.model.kernels.gpu.plans import Processor

HOPPER = Processor(multiprocessors=132, shared_bytes=227 * 1024)
HOPPER_CAPABILITY = 90


@dataclass(frozen=True, slots=True)
class Binary:
    """A compiled kernel."""

    name: str
    code: bytes
    shared_bytes: int  # of one program


@dataclass(frozen=True, slots=True)
class Launch:
    binary: Binary
    programs: int
    cooperative: bool


class ListingDriver:
    """What Triton asks of a driver."""

    def __init__(self, capability: int = HOPPER_CAPABILITY, processor: Processor = HOPPER):
        self.launches: list[Launch] = []
        self._capability = capability
        self._processor = processor
        self._binaries: list[Binary] = []  # a kernel's handle is its index
        self.utils = SimpleNamespace(
            load_binary=self._load,
            get_device_properties=self._properties,
            unload_module=lambda _: None,
        )

    def activate(self) -> None:
        """For the rest of the process."""
        driver.set_active(self)

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self._capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _device: int) -> int:
        return 0

    def launcher_cls(self, _source: Any, metadata: Any) -> Any:
        def launch(programs: int, _y: int, _z: int, _stream: int, kernel: int, *_: Any) -> None:
            self.launches.append(
                Launch(self._binaries[kernel], programs, metadata.launch_cooperative_grid)
            )

        return launch

    def _load(
        self, name: str, code: bytes, shared_bytes: int, _device: int
    ) -> tuple[int, int, int, int, int]:
        self._binaries.append(Binary(name, code, shared_bytes))
        kernel = len(self._binaries) - 1
        return 0, kernel, 0, 0, 1024  # module, kernel, registers, spills, most threads

    def _properties(self, _device: int) -> dict[str, int]:
        return {
            "max_shared_mem": self._processor.shared_bytes,
            "multiprocessor_count": self._processor.multiprocessors,
        }
