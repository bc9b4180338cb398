"""Model folders: `config.json` and `model.safetensors`.

Owns the two files' names and how they are written and read. Every folder that can't be used
raises a one-line `ModelError`. How a checkpoint becomes one is in `importing`.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from pydantic import ValidationError
from torch import Tensor

from ...errors import ModelError
from ...quoting import first_problem
from ..config import ModelConfig
from ..graph import SequenceEncoder
from .files import Version, changed, is_still, read_whole
from .first_format import PlainConfig
from .weights import check_tensors, read_tensors

CONFIG = "config.json"
WEIGHTS = "model.safetensors"

_MOST_CONFIG_BYTES = 2**24
_MOST_HEADER_BYTES = 2**26


def save_model(encoder: SequenceEncoder, folder: Path) -> None:
    """Write `encoder` as a model folder, its weights in float32, over one that is there."""
    write_folder(encoder.config, encoder.state_dict(), folder)


def load_model(
    folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> SequenceEncoder:
    """Read a model folder. The encoder is in eval mode, its weights on `device` in `dtype`."""
    config, version = _read_config(folder / CONFIG)
    encoder = SequenceEncoder(config, device="meta")
    expected = encoder.state_dict()
    tensors = read_tensors(folder / WEIGHTS, _most_bytes(expected))
    if not is_still(folder / CONFIG, version):  # or it were perhaps not that of these weights
        raise changed(folder / CONFIG)
    forbidding = {f"{layer.name}.{own}" for layer in config.layers for own in layer.forbidding}
    check_tensors(tensors, expected, folder / WEIGHTS, forbidding)
    encoder.load_state_dict(tensors, assign=True)
    return encoder.to(device, dtype).eval().requires_grad_(False)


def read_config(folder: Path) -> ModelConfig:
    """Read what a model folder says it is, without its weights."""
    return _read_config(folder / CONFIG)[0]


def write_folder(config: ModelConfig, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Write a model folder. Each file appears whole, and the config, without which a folder is no
    model, last.
    """
    # Copies: tensors that share memory, as tied weights do, can't be written as they are.
    weights = {
        name: tensor.detach().to("cpu", torch.float32, copy=True).contiguous()
        for name, tensor in tensors.items()
    }
    text = json.dumps(
        config.model_dump(mode="json", exclude_none=True), indent=2, ensure_ascii=False
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".writing-", dir=folder) as unfinished:
            (Path(unfinished) / WEIGHTS).write_bytes(safetensors.torch.save(weights))
            (Path(unfinished) / CONFIG).write_text(text + "\n", encoding="utf-8")
            for name in (WEIGHTS, CONFIG):
                os.replace(Path(unfinished) / name, folder / name)
    except OSError as error:
        raise ModelError(f"{folder}: can't be written: {error.strerror}") from error


def _most_bytes(expected: Mapping[str, Tensor]) -> int:
    """The most bytes that a file of weights may have: more than these take in float64, so that a
    file with some tensors too many is read, and they are named.
    """
    numbers = sum(tensor.numel() for tensor in expected.values())
    return 2 * numbers * torch.float64.itemsize + _MOST_HEADER_BYTES


def _read_config(path: Path) -> tuple[ModelConfig, Version]:
    if path.parent.is_file():
        raise ModelError(
            f"{path.parent}: is a file, and a model is a folder; if it is a checkpoint, "
            "run bilstm-server import first"
        )
    try:
        content, version = read_whole(path, _MOST_CONFIG_BYTES)
    except ModelError as error:
        raise ModelError(f"{error}; a model is a folder with it") from error
    try:
        return _config_of(content), version
    except ValidationError as error:
        raise ModelError(f"{path}: {first_problem(error)}") from error


def _config_of(content: bytes) -> ModelConfig:
    """Read a config of either format. Raises `ValidationError`."""
    try:
        is_first = "format" not in json.loads(content)
    except (ValueError, TypeError, RecursionError):
        is_first = False  # and no config at all: pydantic says what it is
    if is_first:
        return PlainConfig.model_validate_json(content).graph()
    return ModelConfig.model_validate_json(content)
