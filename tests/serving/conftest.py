"""A second model, beside `model_folder`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.servers import write_model


@pytest.fixture
def other_folder(tmp_path: Path) -> Path:
    return write_model(tmp_path / "other", seed=1)
