"""Modules as people lay theirs out, and their checkpoints: the judges of what is imported."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.model.storage.importing.judges import (
    Crf,
    Layout,
    Modules,
    Outputs,
    best_path,
    final,
    lstm,
    run,
)

# -- classifiers --------------------------------------------------------------------------------


def _deep_head(m: nn.Module, x: Tensor) -> Outputs:
    y = run(m.lstm, x)  # type: ignore[arg-type]
    return {"states": y, "logits": m.head(final(y)[None])[0]}  # type: ignore[operator]


def _normed(m: nn.Module, x: Tensor) -> Outputs:
    y = run(m.rnn, m.norm_in(x))  # type: ignore[arg-type, operator]
    return {"states": y, "logits": m.out(m.ln(y))}  # type: ignore[operator]


def _projected(m: nn.Module, x: Tensor) -> Outputs:
    y = run(m.lstm, torch.relu(m.proj(x)))  # type: ignore[arg-type, operator]
    return {"logits": m.fc(y.max(0).values)}  # type: ignore[operator]


def _summed_directions(m: nn.Module, ids: Tensor) -> Outputs:
    y = run(m.lstm, m.embed(ids))  # type: ignore[arg-type, operator]
    both = y[:, :5] + y[:, 5:]
    return {"states": both, "logits": m.dense(both.mean(0))}  # type: ignore[operator]


class LearnedStates(Modules):
    """Initial states that are learned, with a batch of one."""

    def __init__(self) -> None:
        super().__init__(lstm=lstm(3, 5, 2, proj_size=4), out=nn.Linear(8, 2))
        self.h_init = nn.Parameter(torch.zeros(4, 1, 4))
        self.c_init = nn.Parameter(torch.zeros(4, 1, 5))


def _learned(m: nn.Module, x: Tensor) -> Outputs:
    y, (h_n, _) = m.lstm(x[None], (m.h_init, m.c_init))  # type: ignore[operator]
    return {"states": y[0], "logits": m.out(torch.cat([h_n[-2], h_n[-1]], 1))[0]}  # type: ignore[operator]


# -- taggers ------------------------------------------------------------------------------------


def _tagger(m: nn.Module, ids: Tensor) -> Outputs:
    return {"logits": m.hidden2tag(run(m.lstm, m.word_embeddings(ids)))}  # type: ignore[arg-type, operator]


def _two_embeddings(m: nn.Module, words: Tensor, case: Tensor) -> Outputs:
    x = torch.cat([m.word_emb(words), m.case_emb(case)], 1)  # type: ignore[operator]
    return {"logits": m.clf(run(m.lstm, x))}  # type: ignore[arg-type, operator]


def _heads(m: nn.Module, x: Tensor) -> Outputs:
    y = run(m.lstm, x)  # type: ignore[arg-type]
    return {"states": y, "phone": m.phone(y), "stress": m.stress(y)}  # type: ignore[operator]


def _crf(m: nn.Module, ids: Tensor) -> Outputs:
    emissions = m.hidden2tag(run(m.lstm, m.word_embeddings(ids)))  # type: ignore[arg-type, operator]
    return {"logits": emissions, "labels": m.crf.labels(emissions)}  # type: ignore[operator, union-attr]


def _constraints() -> Tensor:
    mask = torch.ones(5, 5)
    mask[0, 1] = mask[1, 2] = mask[3, 2] = mask[0, 4] = 0
    return mask


class MatrixTagger(Modules):
    """START (tag 3) and STOP (tag 4) are in the matrix, [to, from]."""

    def __init__(self) -> None:
        super().__init__(word_embeds=nn.Embedding(12, 4), lstm=lstm(4, 3), out=nn.Linear(6, 5))
        self.transitions = nn.Parameter(torch.randn(5, 5))
        self.transitions.data[3, :] = self.transitions.data[:, 4] = -10_000


def _matrix_crf(m: nn.Module, ids: Tensor) -> Outputs:
    emissions = m.out(run(m.lstm, m.word_embeds(ids)))  # type: ignore[arg-type, operator]
    to_from: Tensor = m.transitions  # type: ignore[assignment]
    labels = best_path(emissions, to_from.T, to_from[:, 3], to_from[4])
    return {"logits": emissions, "labels": labels}


# -- several LSTMs ------------------------------------------------------------------------------


def _stacked(m: nn.Module, x: Tensor) -> Outputs:
    for layer in m.layers:  # type: ignore[union-attr]
        x = run(layer, x)
    return {"states": x, "logits": m.fc(x[-1])}  # type: ignore[operator]


def _residual(m: nn.Module, x: Tensor) -> Outputs:
    for layer in m.rnns:  # type: ignore[union-attr]
        x = run(layer, x) + x
    return {"states": x, "logits": m.fc(x)}  # type: ignore[operator]


def _joined(m: nn.Module, ids: Tensor, features: Tensor) -> Outputs:
    x = torch.cat([m.embedding(ids), features], 1)  # type: ignore[operator]
    outputs = []
    for layer in m.rnns:  # type: ignore[union-attr]
        x = run(layer, x)
        outputs.append(x)
    return {"states": torch.cat(outputs, 1)}


def _between(m: nn.Module, x: Tensor) -> Outputs:
    y = torch.tanh(m.pj(m.ln(run(m.first, x))))  # type: ignore[arg-type, operator]
    return {"states": run(m.second, y)}  # type: ignore[arg-type]


def _speaker(m: nn.Module, x: Tensor) -> Outputs:
    y = torch.relu(m.linear(run(m.lstm, x)[-1]))  # type: ignore[arg-type, operator]
    return {"embedding": F.normalize(y, dim=0)}


LAYOUTS: dict[str, Layout] = {
    "a head of several layers": Layout(
        lambda: Modules(
            lstm=lstm(3, 4),
            head=nn.Sequential(
                nn.BatchNorm1d(8), nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)
            ),
        ),
        {"features": -3},
        _deep_head,
        {"pooling": "final", "head_activation": "relu"},
    ),
    "as many classes as features": Layout(
        lambda: Modules(lstm=lstm(5, 4), fc=nn.Linear(8, 5)),
        {"features": -5},
        lambda m, x: {"logits": m.fc(final(run(m.lstm, x)))},
        {"pooling": "final"},
    ),
    "learned initial states": Layout(
        LearnedStates, {"features": -3}, _learned, {"pooling": "final"}
    ),
    "norms before and behind": Layout(
        lambda: Modules(
            norm_in=nn.BatchNorm1d(3), rnn=lstm(3, 4, 2), ln=nn.LayerNorm(8), out=nn.Linear(8, 5)
        ),
        {"features": -3},
        _normed,
        {"per_step": True},
    ),
    "a linear layer before": Layout(
        lambda: Modules(proj=nn.Linear(7, 3), lstm=lstm(3, 4), fc=nn.Linear(8, 5)),
        {"features": -7},
        _projected,
        {"chain": "proj, relu, lstm, max, fc"},
    ),
    "directions added": Layout(
        lambda: Modules(embed=nn.Embedding(9, 4), lstm=lstm(4, 5), dense=nn.Linear(5, 3)),
        {"tokens": 9},
        _summed_directions,
        {"chain": "embed, lstm, sum_directions, mean, dense"},
    ),
    "a tagger": Layout(
        lambda: Modules(
            word_embeddings=nn.Embedding(11, 6), lstm=lstm(6, 4, 2), hidden2tag=nn.Linear(8, 5)
        ),
        {"tokens": 11},
        _tagger,
        {"per_step": True},
    ),
    "two embeddings": Layout(
        lambda: Modules(
            case_emb=nn.Embedding(4, 2),
            word_emb=nn.Embedding(11, 6),
            lstm=lstm(8, 4),
            clf=nn.Linear(8, 5, bias=False),
        ),
        {"word_emb": 11, "case_emb": 4},
        _two_embeddings,
        {"chain": "word_emb+case_emb, lstm, clf"},
    ),
    "several heads": Layout(
        lambda: Modules(
            lstm=lstm(3, 4),
            phone=nn.Linear(8, 7),
            stress=nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 2)),
        ),
        {"features": -3},
        _heads,
        {"head_prefix": ["phone.", "stress."], "per_step": True, "head_activation": "tanh"},
    ),
    "a CRF": Layout(
        lambda: Modules(
            word_embeddings=nn.Embedding(11, 6),
            lstm=lstm(6, 4),
            hidden2tag=nn.Linear(8, 3),
            crf=Crf(3),
        ),
        {"tokens": 11},
        _crf,
    ),
    "a CRF with constraints": Layout(
        lambda: Modules(
            word_embeddings=nn.Embedding(11, 6),
            lstm=lstm(6, 4),
            hidden2tag=nn.Linear(8, 3),
            crf=Crf(3, _constraints()),
        ),
        {"tokens": 11},
        _crf,
    ),
    "a CRF with START and STOP": Layout(
        MatrixTagger, {"tokens": 12}, _matrix_crf, {"crf": "to-from"}
    ),
    "LSTMs in a list": Layout(
        lambda: Modules(
            layers=nn.ModuleList([lstm(3, 4), lstm(8, 5), lstm(10, 2, proj_size=1)]),
            fc=nn.Linear(2, 5),
        ),
        {"features": -3},
        _stacked,
        {"pooling": "last"},
        lambda tensors: {"epoch": 3, "state_dict": {f"module.{k}": t for k, t in tensors.items()}},
    ),
    "LSTMs added to their inputs": Layout(
        lambda: Modules(rnns=nn.ModuleList([lstm(6, 3), lstm(6, 3)]), fc=nn.Linear(6, 5)),
        {"features": -6},
        _residual,
        {"chain": "rnns.0, residual, rnns.1, residual, fc"},
    ),
    "the outputs of all LSTMs": Layout(
        lambda: Modules(
            embedding=nn.Embedding(11, 5), rnns=nn.ModuleList([lstm(8, 4), lstm(8, 4)])
        ),
        {"tokens": 11, "features": -3},
        _joined,
        {"chain": "embedding+features:3, rnns.0, rnns.1, joined"},
    ),
    "layers between LSTMs": Layout(
        lambda: Modules(
            first=lstm(3, 4), ln=nn.LayerNorm(8), pj=nn.Linear(8, 6), second=lstm(6, 5)
        ),
        {"features": -3},
        _between,
        {"chain": "first, ln, pj, tanh, second"},
    ),
    "a speaker encoder": Layout(
        lambda: Modules(lstm=lstm(4, 6, 3, bidirectional=False), linear=nn.Linear(6, 5)),
        {"features": -4},
        _speaker,
        {"chain": "lstm, last, linear, relu, normalize"},
        lambda tensors: {"step": 7, "model_state": tensors, "optimizer_state": {"state": {}}},
    ),
}
