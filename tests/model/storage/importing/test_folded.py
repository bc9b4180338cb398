"""Weights that a checkpoint holds in pieces are those that torch's own modules compute of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from bilstm_server.errors import ModelError
from bilstm_server.model import import_checkpoint
from bilstm_server.model.storage.checkpoints.folding import fold
from tests.model.storage.importing.judges import Crf

prune_weights: Any = prune.random_unstructured
prune_rows: Any = prune.ln_structured


def old(function: str, **options: object) -> Callable[[nn.Module], object]:
    return lambda module: getattr(nn.utils, function)(module, "weight", **options)


WAYS: dict[str, Callable[[nn.Module], object]] = {
    "weight norm": old("weight_norm"),
    "weight norm of columns": old("weight_norm", dim=1),
    "weight norm of the whole": old("weight_norm", dim=None),
    "spectral norm": old("spectral_norm"),
    "weight norm, parametrized": parametrizations.weight_norm,
    "weight norm of columns, parametrized": lambda m: parametrizations.weight_norm(m, dim=1),
    "weight norm of the whole, parametrized": lambda m: parametrizations.weight_norm(m, dim=-1),
    "spectral norm, parametrized": parametrizations.spectral_norm,
    "pruning": lambda m: prune_weights(m, "weight", amount=0.4),
    "pruning of rows": lambda m: prune_rows(m, "weight", amount=0.4, n=2, dim=0),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("way", "shape"),
    [(way, (5, 3)) for way in WAYS]
    + [(way, size) for way in WAYS for size in ((1, 4), (4, 1)) if "pruning" not in way],
)
def test_linear(way: str, shape: tuple[int, int]) -> None:
    """A linear layer's weight is the one that it computes with, and the bias stays."""
    torch.manual_seed(0)
    module = nn.Linear(shape[1], shape[0])
    WAYS[way](module)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    module.eval()
    folded, names = fold({f"fc.{name}": tensor for name, tensor in module.state_dict().items()})
    assert names == ["fc.weight"]
    assert folded.keys() == {"fc.weight", "fc.bias"}
    with torch.no_grad():
        expected = module(torch.eye(shape[1])) - module.bias
    torch.testing.assert_close(folded["fc.weight"].T, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("way", ["weight_norm", "spectral_norm", "pruning", "parametrized"])
def test_lstm(way: str) -> None:
    """An LSTM's weights are those that it computes with, by whatever way each is made."""
    torch.manual_seed(0)
    lstm = nn.LSTM(3, 4, 2, bidirectional=True)
    for name in ("weight_hh_l0", "weight_ih_l1_reverse"):
        if way == "pruning":
            prune_weights(lstm, name, amount=0.4)
        elif way == "parametrized":
            parametrizations.weight_norm(lstm, name)
        else:
            getattr(nn.utils, way)(lstm, name)
    folded, names = fold(lstm.eval().state_dict())
    assert sorted(names) == ["weight_hh_l0", "weight_ih_l1_reverse"]
    lstm(torch.zeros(1, 1, 3))  # the old ways compute the weights then
    for name in names:
        own = getattr(lstm, name).detach()
        torch.testing.assert_close(folded[name], own, rtol=1e-6, atol=1e-6)
    plain = nn.LSTM(3, 4, 2, bidirectional=True)
    assert folded.keys() == plain.state_dict().keys()


def test_constraints() -> None:
    """What a CRF's mask forbids gets a score that no path takes; starts without scores have 0."""
    mask = torch.ones(5, 5)
    mask[0, 1] = mask[3, 2] = mask[1, 4] = 0
    crf = Crf(3, mask)
    tensors = {f"crf.{name}": tensor for name, tensor in crf.state_dict().items()}
    folded, _ = fold(tensors)
    expected = copy.deepcopy(crf).state_dict()
    expected["transitions"][0, 1] = -10_000
    expected["start_transitions"][2] = -10_000
    expected["end_transitions"][1] = -10_000
    del expected["_constraint_mask"]
    assert folded.keys() == {f"crf.{name}" for name in expected}
    for name, tensor in expected.items():
        torch.testing.assert_close(folded[f"crf.{name}"], tensor, rtol=0, atol=0)
    del tensors["crf.start_transitions"], tensors["crf.end_transitions"]
    folded, _ = fold(tensors)
    assert folded["crf.start_transitions"].tolist() == [0, 0, -10_000]


UNKNOWN: dict[str, tuple[dict[str, Tensor], str]] = {
    "another parametrization": (
        {"fc.parametrizations.weight.0.base": torch.ones(2, 2)},
        "fc.weight is made by a parametrization that is not known (0.base); save the state_dict "
        "after torch.nn.utils.parametrize.remove_parametrizations",
    ),
    "pieces that do not fit": (
        {"fc.weight_g": torch.ones(3, 1), "fc.weight_v": torch.ones(2, 5)},
        "fc.weight: its pieces do not fit each other: g [3, 1], v [2, 5]",
    ),
    "a mask of another shape": (
        {"fc.weight_orig": torch.ones(3, 2), "fc.weight_mask": torch.ones(3, 1)},
        "do not fit each other",
    ),
    "vectors of a vector": (
        {f"fc.weight_{piece}": torch.ones(3) for piece in ("orig", "u", "v")},
        "do not fit each other",
    ),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_unknown_pieces(case: str, tmp_path: Path) -> None:
    """Pieces of which no weight can be made are refused, and the weight is named."""
    tensors, words = UNKNOWN[case]
    lstm = {f"lstm.{name}": tensor for name, tensor in nn.LSTM(3, 4).state_dict().items()}
    torch.save(lstm | tensors, tmp_path / "model.pt")
    with pytest.raises(ModelError) as raised:
        import_checkpoint(tmp_path / "model.pt", tmp_path / "out")
    assert words in str(raised.value)
