"""The CPU kernel in every variant. A variant that this CPU cannot run is compiled with portable
code in place of its instructions.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bilstm_server.model.kernels.cpu.build import VARIANTS, Variant
from bilstm_server.model.kernels.cpu.kernel import CpuKernel
from bilstm_server.model.kernels.interface import KernelUnavailable


@pytest.fixture(scope="session", params=VARIANTS[::-1], ids=lambda variant: variant.name)
def kernel(request: pytest.FixtureRequest, compiled: Callable[[Variant], Path]) -> CpuKernel:
    try:
        return CpuKernel(compiled(request.param))
    except KernelUnavailable as error:
        if "may not use" in str(error):  # as in a sandbox
            pytest.skip(str(error))
        raise
