"""`docs/config.schema.json`: what an editor says of a model's `config.json`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.model.layers.cases import CASES
from tests.model.layers.running import config_of

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "docs" / "config.schema.json").read_text(encoding="utf-8"))
TAGGER: dict[str, Any] = {
    "format": 2,
    "inputs": {"tokens": {"ids": 5000}},
    "layers": [
        {"name": "embedding", "type": "embedding", "width": 100},
        {"name": "lstm", "type": "lstm", "hidden_size": 256},
        {"name": "emissions", "type": "linear", "width": 2},
        {"name": "crf", "type": "crf"},
    ],
    "outputs": {"logits": "emissions", "labels": "crf"},
    "labels": {"labels": ["O", "B-PER"]},
}


def test_is_current() -> None:
    """The schema is what docs/tables.py makes of the layers that there are."""
    command = [sys.executable, "docs/tables.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_is_a_schema() -> None:
    """It is one of its dialect."""
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("name", CASES)
def test_takes_every_layer(name: str) -> None:
    """It takes a model of each form of each layer type."""
    Draft202012Validator(SCHEMA).validate(config_of(CASES[name]))


def test_takes_a_tagger() -> None:
    """It takes a config as people write one, which leaves out what can be left out."""
    Draft202012Validator(SCHEMA).validate(TAGGER)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 3},
        {"inputs": {}},
        {"outputs": {"logits": "no layer"}},
        {"layers": [{"name": "lstm", "type": "gru", "hidden_size": 3}]},
        {"layers": [{"name": "lstm", "hidden_size": 3}]},
        {"layers": [{"name": "lstm", "type": "lstm", "hidden": 3}]},
        {"layers": [{"name": "x", "type": "activation", "function": "relu7"}]},
        {"layers": [{"name": "x", "type": "conv1d", "width": 3, "kernel": 0}]},
        {"surplus": 1},
    ],
    ids=str,
)
def test_refuses(change: dict[str, Any]) -> None:
    """It refuses what the server would refuse for its form."""
    assert not Draft202012Validator(SCHEMA).is_valid(TAGGER | change)


@pytest.mark.parametrize("missing", ["format", "inputs", "layers", "outputs"])
def test_needs(missing: str) -> None:
    """It refuses a config without what must be there."""
    assert not Draft202012Validator(SCHEMA).is_valid(
        {name: value for name, value in TAGGER.items() if name != missing}
    )
