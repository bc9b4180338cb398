"""The gpu kernel's programs in Triton's interpreter. With a GPU, `test_device` runs the same and
more.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def mended() -> Iterator[None]:
    from tests.model.kernels.gpu.interpreter.mending import mended_interpreter  # needs Triton

    with mended_interpreter():
        yield
