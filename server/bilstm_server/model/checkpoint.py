"""Models on disk: a folder of `config.json` and `model.safetensors`.

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

from ..errors import ModelError, first_problem
from .config import ModelConfig
from .encoder import SequenceEncoder
from .weights import check_tensors, read_tensors

CONFIG = "config.json"
WEIGHTS = "model.safetensors"


def save_model(encoder: SequenceEncoder, folder: Path) -> None:
    """Write `encoder` as a model folder, its weights in float32, over one that is there."""
    write_folder(encoder.config, encoder.state_dict(), folder)


def load_model(
    folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> SequenceEncoder:
    """Read a model folder. The encoder is in eval mode, its weights on `device` in `dtype`."""
    config = _read_config(folder / CONFIG)
    tensors = read_tensors(folder / WEIGHTS)
    encoder = SequenceEncoder(config, device="meta")
    check_tensors(tensors, encoder.state_dict(), folder / WEIGHTS)
    encoder.load_state_dict(tensors, assign=True)
    return encoder.to(device, dtype).eval().requires_grad_(False)


def write_folder(config: ModelConfig, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Write a model folder. Each file appears whole, and the config, without which a folder is no
    model, last.
    """
    # Copies: tensors that share memory, as tied weights do, can't be written as they are.
    weights = {
        name: tensor.detach().to("cpu", torch.float32, copy=True).contiguous()
        for name, tensor in tensors.items()
    }
    text = json.dumps(config.model_dump(mode="json"), indent=2, ensure_ascii=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".writing-", dir=folder) as unfinished:
            (Path(unfinished) / WEIGHTS).write_bytes(safetensors.torch.save(weights))
            (Path(unfinished) / CONFIG).write_text(text + "\n", encoding="utf-8")
            for name in (WEIGHTS, CONFIG):
                os.replace(Path(unfinished) / name, folder / name)
    except OSError as error:
        raise ModelError(f"{folder}: can't be written: {error.strerror}") from error


def _read_config(path: Path) -> ModelConfig:
    try:
        return ModelConfig.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}; a model is a folder with it") from error
    except ValidationError as error:
        raise ModelError(f"{path}: {first_problem(error)}") from error
