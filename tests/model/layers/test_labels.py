"""Labels of whole models: of a CRF and of CTC, in batches and in slices, from their folders."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bilstm_server.errors import ModelError
from bilstm_server.model import (
    ModelConfig,
    RaggedBatch,
    SequenceEncoder,
    load_model,
    save_model,
)
from bilstm_server.model.incremental.slices import SlicedRun, advance
from bilstm_server.model.kernels import KernelUnavailable, choose_kernel

pytestmark = pytest.mark.usefixtures("one_thread")

OUTPUTS = ("logits", "labels", "score", "spelled")
LENGTHS = [4, 300, 1, 129]


def tagger() -> SequenceEncoder:
    """Emissions, and what a CRF and CTC say of them. From other tags nothing goes to tag 0."""
    torch.manual_seed(0)
    layers = [
        {"type": "lstm", "name": "lstm", "hidden_size": 6},
        {"type": "linear", "name": "emissions", "width": 5},
        {"type": "crf", "name": "crf"},
        {"type": "ctc", "name": "ctc", "inputs": ["emissions"], "blank": 4},
    ]
    outputs = {"logits": "emissions", "labels": "crf", "score": "crf.score", "spelled": "ctc"}
    config = {"inputs": {"x": {"width": 3}}, "layers": layers, "outputs": outputs}
    encoder = SequenceEncoder(ModelConfig.model_validate(config)).eval()
    tensors = encoder.state_dict()
    tensors["emissions.weight"] *= 20  # or the tags of all steps were alike
    tensors["crf.transitions"][1:, 0] = -torch.inf
    return encoder


@torch.inference_mode()
def encode(encoder: SequenceEncoder, *sequences: Tensor) -> dict[str, Tensor]:
    batch = RaggedBatch([len(x) for x in sequences])
    found: dict[str, Tensor] = encoder(torch.cat(sequences), batch, outputs=OUTPUTS)
    return found


@torch.inference_mode()
def encode_in_slices(encoder: SequenceEncoder, x: Tensor) -> dict[str, Tensor]:
    run = SlicedRun(encoder, lambda start, stop: (x[start:stop],), len(x), OUTPUTS)
    while not run.done:
        advance([run], 64)
    return run.encodings()


def test_folder(tmp_path: Path) -> None:
    """Transitions of minus infinity are kept in a model's folder, and not taken."""
    save_model(tagger(), tmp_path)
    encoder = load_model(tmp_path)
    x = torch.randn(200, 3)
    found = encode(encoder, x)
    labels = found["labels"].tolist()
    assert all(not before or after for before, after in itertools.pairwise(labels))
    assert len(set(labels)) > 2
    assert found["score"].isfinite().all()


def test_alone_and_in_slices() -> None:
    """A sequence has the same labels and score alone, in a batch, and in slices."""
    try:
        encoder = tagger().freeze(choose_kernel("cpu", torch.device("cpu")).kernel)
    except KernelUnavailable as error:  # the reference's products depend on the batch
        pytest.skip(str(error))
    sequences = [torch.randn(length, 3) for length in LENGTHS]
    together = encode(encoder, *sequences)
    rows = [torch.split(together[name], LENGTHS) for name in ("labels", "spelled")]
    scores = torch.split(together["score"], 1)
    for x, labels, spelled, score in zip(sequences, *rows, scores, strict=True):
        for found in (encode(encoder, x), encode_in_slices(encoder, x)):
            assert torch.equal(found["labels"], labels)
            assert torch.equal(found["spelled"], spelled)
            assert torch.equal(found["score"], score)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("crf.transitions", torch.inf),
        ("crf.transitions", torch.nan),
        ("emissions.bias", -torch.inf),
    ],
)
def test_infinities(name: str, number: float, tmp_path: Path) -> None:
    """What forbids nothing is refused: any other infinity, NaN, and minus infinity elsewhere."""
    encoder = tagger()
    encoder.state_dict()[name].view(-1)[1] = number
    save_model(encoder, tmp_path)
    with pytest.raises(ModelError, match=f"{name} holds NaN or infinity"):
        load_model(tmp_path)
