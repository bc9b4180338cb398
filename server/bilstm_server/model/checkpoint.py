"""Models on disk: a folder of `config.json` and `model.safetensors`, and the way there from a
`.pt` or `.safetensors` checkpoint. Every file that can't be used raises one-line `ModelError`s.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from pydantic import ValidationError
from torch import Tensor

from ..errors import ModelError, first_problem
from .config import EmbeddingConfig, HeadConfig, ModelConfig, Pooling
from .encoder import SequenceEncoder

CONFIG = "config.json"
WEIGHTS = "model.safetensors"


def save_model(encoder: SequenceEncoder, folder: Path) -> None:
    """Write `encoder` as a model folder, its weights in float32."""
    _write(encoder.config, encoder.state_dict(), folder)


def load_model(
    folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> SequenceEncoder:
    """Read a model folder. The encoder is in eval mode, its weights on `device` in `dtype`."""
    config = _read_config(folder / CONFIG)
    tensors = read_tensors(folder / WEIGHTS)
    encoder = SequenceEncoder(config, device="meta")
    _check_shapes(tensors, encoder.state_dict(), folder / WEIGHTS)
    encoder.load_state_dict(tensors, assign=True)
    return encoder.to(device, dtype).eval().requires_grad_(False)


def import_checkpoint(
    checkpoint: Path,
    folder: Path,
    *,
    lstm_prefix: str = "lstm.",
    head_prefix: str = "fc.",
    embedding_prefix: str = "embedding.",
    pooling: Pooling = Pooling.LAST,
    labels: tuple[str, ...] = (),
    version: int = 1,
    ignore_unused: bool = False,
) -> ModelConfig:
    """Turn a state_dict file into the model folder `folder`, all sizes read off its tensors.

    The prefixes say where in the checkpoint nn.LSTM's, nn.Linear's and nn.Embedding's
    parameters are; head and embedding may be absent. Tensors outside of the three are refused
    unless `ignore_unused`: a model without them would give other numbers.
    """
    tensors = read_tensors(checkpoint)
    head = _under(tensors, head_prefix)
    embedding = _under(tensors, embedding_prefix)
    # The LSTM's prefix may be empty: the others' tensors are not its own.
    others = [p for p in (head_prefix, embedding_prefix) if p.startswith(lstm_prefix)]
    lstm = _under(
        {k: v for k, v in tensors.items() if not k.startswith(tuple(others))}, lstm_prefix
    )
    if "weight_ih_l0" not in lstm:
        raise ModelError(
            f"{checkpoint}: no {lstm_prefix}weight_ih_l0 in it, so no LSTM under the prefix "
            f"{lstm_prefix!r}; it has: {_some(tensors)} (choose with --lstm-prefix)"
        )
    named = (
        {f"lstm.{k}": v for k, v in lstm.items()}
        | {f"head.{k}": v for k, v in head.items()}
        | {f"embedding.{k}": v for k, v in embedding.items()}
    )
    unused = len(tensors) - len(named)
    if unused and not ignore_unused:
        prefixes = (lstm_prefix, head_prefix, embedding_prefix)
        left = [name for name in tensors if not name.startswith(prefixes)]
        raise ModelError(
            f"{checkpoint}: {unused} more tensors would be left out, and the results might "
            f"differ: {_some(left)} (name them with --head-prefix or --embedding-prefix, or "
            "pass --ignore-unused)"
        )
    config = _config_of(lstm, head, embedding, checkpoint, pooling, labels, version)
    _check_shapes(named, SequenceEncoder(config, device="meta").state_dict(), checkpoint)
    _write(config, named, folder)
    return config


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file, or of a state_dict saved with `torch.save`.

    Nothing in the file is executed: pickled objects other than tensors are refused.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with warnings.catch_warnings(action="ignore"):  # the error says what matters
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Whatever a damaged file makes the two readers raise, it is that file's fault.
        reason = next(iter(str(error).splitlines()), "").split(". ")[0] or type(error).__name__
        raise ModelError(
            f"{path}: not a readable {path.suffix or 'checkpoint'} file of tensors ({reason}); "
            "save with torch.save(model.state_dict(), …) or as safetensors"
        ) from error
    if not isinstance(content, Mapping) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()
    ):
        held = _some(content) if isinstance(content, Mapping) else type(content).__name__
        raise ModelError(
            f"{path}: holds {held} instead of a state_dict (names to tensors); "
            "save with torch.save(model.state_dict(), …)"
        )
    for name, tensor in content.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise ModelError(f"{path}: {name} is sparse or without data; save it dense")
    return dict(content)


def _read_config(path: Path) -> ModelConfig:
    try:
        return ModelConfig.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}; a model is a folder with it") from error
    except ValidationError as error:
        raise ModelError(f"{path}: {first_problem(error)}") from error


def _config_of(
    lstm: dict[str, Tensor],
    head: dict[str, Tensor],
    embedding: dict[str, Tensor],
    checkpoint: Path,
    pooling: Pooling,
    labels: tuple[str, ...],
    version: int,
) -> ModelConfig:
    """All sizes, read off the tensors' shapes."""
    for name, group in (("LSTM", lstm), ("head", head), ("embedding", embedding)):
        for key, tensor in group.items():
            if tensor.dim() != (1 if key.startswith("bias") else 2):
                raise ModelError(
                    f"{checkpoint}: the {name}'s {key} has shape {list(tensor.shape)}; is it one?"
                )
    if (head and "weight" not in head) or (embedding and "weight" not in embedding):
        raise ModelError(f"{checkpoint}: the head or embedding under the prefix has no weight")
    projection = lstm.get("weight_hr_l0")
    try:
        return ModelConfig(
            version=version,
            input_size=lstm["weight_ih_l0"].shape[1],
            hidden_size=lstm["weight_ih_l0"].shape[0] // 4,
            num_layers=sum(k.startswith("weight_ih_l") and "reverse" not in k for k in lstm),
            bias="bias_ih_l0" in lstm,
            bidirectional="weight_ih_l0_reverse" in lstm,
            proj_size=projection.shape[0] if projection is not None else 0,
            embedding=EmbeddingConfig(num_embeddings=embedding["weight"].shape[0])
            if embedding
            else None,
            head=HeadConfig(
                num_classes=head["weight"].shape[0], pooling=pooling, bias="bias" in head
            )
            if head
            else None,
            labels=labels,
        )
    except ValidationError as error:
        raise ModelError(f"{checkpoint}: {first_problem(error)}") from error


def _check_shapes(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path
) -> None:
    for name, tensor in expected.items():
        if name not in tensors:
            raise ModelError(f"{path}: {name} is missing (expected {list(tensor.shape)})")
        if tensors[name].shape != tensor.shape:
            raise ModelError(
                f"{path}: {name} is {list(tensors[name].shape)}, expected {list(tensor.shape)}"
            )
        if not tensors[name].is_floating_point():
            raise ModelError(f"{path}: {name} is {tensors[name].dtype}, expected floats")
    if unknown := [name for name in tensors if name not in expected]:
        raise ModelError(f"{path}: unexpected tensors: {_some(unknown)}")


def _write(config: ModelConfig, tensors: Mapping[str, Tensor], folder: Path) -> None:
    # Copies: tensors that share memory, as tied weights do, can't be written as they are.
    weights = {
        name: tensor.detach().to("cpu", torch.float32, copy=True).contiguous()
        for name, tensor in tensors.items()
    }
    text = json.dumps(config.model_dump(mode="json"), indent=2, ensure_ascii=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / WEIGHTS).write_bytes(safetensors.torch.save(weights))
        (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ModelError(f"{folder}: can't be written: {error.strerror}") from error


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _some(names: object, most: int = 6) -> str:
    listed = [str(name) for name in names]  # type: ignore[attr-defined]
    return ", ".join(listed[:most]) + (", …" if len(listed) > most else "")
