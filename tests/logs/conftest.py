"""A pipe in the place of standard error."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.logs.pipes import Pipe


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    for end in (pipe.read_end, pipe.write_end):
        try:
            os.close(end)
        except OSError:
            continue
