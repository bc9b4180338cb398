"""What was seen of a server of its own."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.metrics.traffic import Traffic, traffic


@pytest.fixture(scope="module")
def seen(model_folder: Path, token_model_folder: Path) -> Traffic:
    """The traffic, driven once; the server is gone by then."""

    async def drive() -> Traffic:
        async with traffic(model_folder, token_model_folder) as done:
            return done

    return asyncio.run(drive())
