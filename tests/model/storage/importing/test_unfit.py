"""A state_dict that is no such model is refused in one line that names what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.model.storage.importing.checkpoints import Failing, classifier, write

StateDict = dict[str, Tensor]


def changed(**tensors: Tensor | None) -> StateDict:
    """The usual checkpoint with some tensors replaced (dots as `__`), or left out if None."""
    weights: StateDict = dict(classifier().state_dict())
    for name, tensor in tensors.items():
        weights.pop(name.replace("__", "."), None)
        if tensor is not None:
            weights[name.replace("__", ".")] = tensor
    return weights


# Checkpoint, flags, and what the line must name.
UNFIT: dict[str, tuple[Callable[[], StateDict], tuple[str, ...], str]] = {
    "wrong LSTM prefix": (changed, ("--lstm-prefix", "rnn."), "--lstm-prefix"),
    "wrong head prefix": (changed, ("--head-prefix", "clf."), "fc.weight"),
    "layers do not fit": (
        lambda: changed(lstm__weight_ih_l1=torch.ones(16, 9)),
        (),
        "lstm.weight_ih_l1",
    ),
    "gates do not fit": (
        lambda: changed(lstm__weight_hh_l0=torch.ones(12, 4)),
        (),
        "lstm.weight_hh_l0",
    ),
    "rows are not four gates": (
        lambda: changed(lstm__weight_ih_l0=torch.ones(18, 3)),
        (),
        "weight_ih_l0",
    ),
    "no rows": (lambda: changed(lstm__weight_ih_l0=torch.ones(0, 3)), (), "hidden_size"),
    "a vector for a matrix": (
        lambda: changed(lstm__weight_ih_l0=torch.ones(16)),
        (),
        "weight_ih_l0",
    ),
    "reverse weight missing": (
        lambda: changed(lstm__weight_hh_l1_reverse=None),
        (),
        "lstm.weight_hh_l1_reverse",
    ),
    "bias missing": (lambda: changed(lstm__bias_hh_l1=None), (), "lstm.bias_hh_l1"),
    "first bias missing": (lambda: changed(lstm__bias_ih_l0=None), (), "bias"),
    "a layer missing": (
        lambda: {k: t for k, t in changed().items() if "_l0" not in k},
        (),
        "weight_ih_l0",
    ),
    "integers": (
        lambda: changed(lstm__weight_hh_l0=torch.ones(16, 4, dtype=torch.int64)),
        (),
        "lstm.weight_hh_l0",
    ),
    "complex numbers": (
        lambda: changed(lstm__weight_hh_l0=torch.ones(16, 4, dtype=torch.complex64)),
        (),
        "lstm.weight_hh_l0",
    ),
    "a sparse tensor": (
        lambda: changed(lstm__weight_hh_l0=torch.ones(16, 4).to_sparse()),
        (),
        "weight_hh_l0",
    ),
    "a tensor without data": (
        lambda: changed(lstm__weight_hh_l0=torch.ones(16, 4, device="meta")),
        (),
        "weight_hh_l0",
    ),
    "more tensors": (lambda: changed(norm__weight=torch.ones(8)), (), "norm.weight"),
    "more LSTM tensors": (
        lambda: changed(lstm__norm=torch.ones(8, 2)),
        ("--ignore-unused",),
        "lstm.norm",
    ),
    "head of another width": (
        lambda: changed(fc__weight=torch.ones(5, 4)),
        (),
        "fc.weight is [5, 4], expected [5, 8]",
    ),
    "head without weight": (
        lambda: changed(fc__weight=None),
        (),
        "1 more tensor would be left out, and the results might differ: fc.bias;",
    ),
    "head's weight a vector": (
        lambda: changed(fc__weight=torch.ones(5)),
        (),
        "no place in the chain fits fc;",
    ),
    "head bias of another width": (
        lambda: changed(fc__bias=torch.ones(4)),
        (),
        "fc.bias is [4], expected [5]",
    ),
    "a label short": (
        changed,
        ("--labels", "a,b,c,d"),
        ": labels.logits: expected one for each of 5 classes, got 4",
    ),
    "labels without a head": (
        lambda: changed(fc__weight=None, fc__bias=None),
        ("--labels", "a,b"),
        ": --labels, but no head whose classes they name",
    ),
    "embedding of another width": (
        lambda: changed(embedding__weight=torch.ones(9, 4)),
        (),
        "embedding.weight is [9, 4], expected [9, 3]",
    ),
    "version zero": (changed, ("--model-version", "0"), "--model-version"),
    "a GRU": (
        lambda: {f"lstm.{k}": t for k, t in nn.GRU(3, 4).state_dict().items()},
        (),
        "lstm.weight_hh_l0 is [12, 4]: a GRU's (3 gates), not an LSTM's (4)",
    ),
    "a plain RNN": (
        lambda: {f"lstm.{k}": t for k, t in nn.RNN(3, 4).state_dict().items()},
        (),
        "a plain RNN's (1 gate), not an LSTM's (4)",
    ),
    "NaN": (lambda: changed(fc__bias=torch.full([5], torch.nan)), (), "fc.bias holds"),
    "infinity": (
        lambda: changed(lstm__weight_hh_l1=torch.full([16, 4], -torch.inf)),
        (),
        "lstm.weight_hh_l1 holds",
    ),
    "too large for float32": (
        lambda: changed(fc__bias=torch.full([5], 1e300, dtype=torch.float64)),
        (),
        "fc.bias holds",
    ),
    "a dot forgotten": (changed, ("--lstm-prefix", "lstm"), "did you mean 'lstm.'?"),
    "the head's dot forgotten": (changed, ("--head-prefix", "fc"), "did you mean 'fc.'?"),
    "the embedding's dot forgotten": (
        lambda: changed(embedding__weight=torch.ones(9, 3)),
        ("--embedding-prefix", "embedding"),
        "did you mean 'embedding.'?",
    ),
    "the beginning of other names for a head": (
        lambda: changed(fc__weight=None, fc__bias=None, fc1__weight=torch.ones(5, 8)),
        ("--head-prefix", "fc"),
        "(--head-prefix); it has: fc1.weight",
    ),
    "a head that may be an attention": (
        lambda: changed(attention__weight=torch.ones(8, 8), attention__bias=torch.ones(8)),
        ("--head-activation", "tanh"),
        "no tensor tells whether the next layer reads what attention gives",
    ),
    "two heads": (
        lambda: changed(clf__weight=torch.ones(2, 8), clf__bias=torch.ones(2)),
        (),
        "if each is a head of its own, say",
    ),
    "a convolution between": (
        lambda: changed(
            embedding__weight=torch.ones(9, 7),
            conv__weight=torch.ones(3, 7, 5),
            conv__bias=torch.ones(3),
        ),
        (),
        "conv is a 1-D convolution (weight [3, 7, 5]): its padding, stride and activation no "
        "tensor tells (it stands between embedding and lstm); bilstm-server export",
    ),
    "a norm of groups": (
        lambda: changed(group_norm__weight=torch.ones(8), group_norm__bias=torch.ones(8)),
        (),
        "group_norm is a norm, and no tensor tells of how many groups",
    ),
    "a norm of another name": (
        lambda: changed(post__weight=torch.ones(8), post__bias=torch.ones(8)),
        (),
        "no tensor tells whether post computes nn.LayerNorm",
    ),
    "two CRFs": (
        lambda: changed(
            **{
                f"{name}__{part}": torch.ones(shape)
                for name in ("aux", "crf")
                for part, shape in (
                    ("transitions", (5, 5)),
                    ("start_transitions", (5,)),
                    ("end_transitions", (5,)),
                )
            }
        ),
        (),
        "holds several CRFs (aux, crf), and one is served",
    ),
    "a matrix of a CRF": (
        lambda: changed(transitions=torch.ones(5, 5)),
        (),
        "no tensor tells whether it is [to, from] or [from, to]: say it with --crf",
    ),
    "a matrix without START": (
        lambda: changed(transitions=torch.ones(5, 5)),
        ("--crf", "to-from"),
        "transitions does not tell START and STOP: expected one tag that nothing leads to, got []",
    ),
    "a CRF of another size": (
        lambda: changed(
            crf__transitions=torch.ones(4, 4),
            crf__start_transitions=torch.ones(4),
            crf__end_transitions=torch.ones(4),
        ),
        (),
        "crf has 4 tags, which is not what the layer before it gives",
    ),
}

PT_ONLY = ("a sparse tensor", "a tensor without data")  # safetensors has no such tensors


@pytest.mark.parametrize(
    ("case", "suffix"),
    [(case, ".pt") for case in UNFIT]
    + [(case, ".safetensors") for case in UNFIT if case not in PT_ONLY],
)
def test_unfit_checkpoint(case: str, suffix: str, tmp_path: Path, failing: Failing) -> None:
    """A state_dict that is no such model is refused, naming what is wrong, and writes nothing."""
    tensors, flags, named = UNFIT[case]
    path = write(tensors(), tmp_path / f"model{suffix}")
    names = list(tensors())
    if any(name.startswith("fc.") for name in names) and "crf.transitions" not in names:
        flags += ("--pooling", "last")
    said = failing("import", path, "--out", tmp_path / "out", *flags)
    assert named in said.removeprefix(str(path))
    assert not (tmp_path / "out").exists()
