"""No recurrence of torch's is in the operator: neither in its source, nor among what runs."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import bilstm_server.model
from bilstm_server.model.kernels import (
    Kernel,
)
from tests.model.operator.drawing import LENGTHS, draw_input, every_kernel
from tests.support.lstms import (
    pair,
)

pytestmark = pytest.mark.usefixtures("one_thread")

# The recurrences that come with torch: none of them may do this project's work.
RECURRENCES = {
    *("LSTM", "LSTMCell", "GRU", "GRUCell", "RNN", "RNNBase", "RNNCell", "_VF"),
    *("lstm_cell", "_cudnn_rnn", "mkldnn_rnn_layer", "_thnn_fused_lstm_cell", "quantized_lstm"),
}
# What `lstm` is an attribute of in the project's own code: modules, and stages of a plan.
OWN = ("self.", "stage.", "first.", "lstms.")


def recurrences(tree: ast.AST, exempt: bool = False) -> Iterator[str]:
    """The uses of torch's recurrences; `nn.LSTM` itself only outside `exempt` code.

    Exempt are annotations, and the two methods that convert.
    """
    for field, value in ast.iter_fields(tree):
        inner = exempt or field in ("annotation", "returns")
        for node in value if isinstance(value, list) else [value]:
            if not isinstance(node, ast.AST):
                continue
            names = {
                a.name.split(".")[-1] for a in getattr(node, "names", []) if hasattr(a, "name")
            }
            if isinstance(node, ast.Attribute):
                names = {node.attr}
                if node.attr == "lstm" and not ast.unparse(node).startswith(OWN):
                    yield ast.unparse(node)  # torch.lstm, torch.ops.aten.lstm
            for name in names & RECURRENCES:
                if not (inner and name == "LSTM"):
                    yield ast.unparse(node)
            converts = isinstance(node, ast.FunctionDef) and node.name in ("from_torch", "to_torch")
            yield from recurrences(node, inner or converts)


def test_source_is_from_scratch() -> None:
    """The model's source uses no recurrence of torch's; nn.LSTM only where it converts."""
    folder = Path(next(iter(bilstm_server.model.__path__)))
    sources = sorted(folder.rglob("*.py"))
    assert {"bilstm.py", "reference.py", "graph.py"} <= {path.name for path in sources}
    for path in sources:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert list(recurrences(tree)) == [], path.name


@pytest.mark.parametrize(
    "source",
    [
        "y = nn.LSTM(2, 3)(x)",
        "from torch import _VF",
        "from torch.nn import LSTM as L",
        "torch._VF.lstm(x)",
        "torch.lstm(x)",
        "torch.ops.aten.lstm.input(x)",
        "torch._cudnn_rnn(x)",
        "def to_torch(): torch.mkldnn_rnn_layer(x)",
    ],
)
def test_source_check_sees(source: str) -> None:
    """The check of the source sees each way to a recurrence of torch's."""
    assert list(recurrences(ast.parse(source)))


def operators(run: Callable[[], object]) -> set[str]:
    with torch.autograd.profiler.profile() as profile:
        run()
    return {event.name for event in profile.function_events}


@every_kernel
def test_run_is_from_scratch(kernel: Kernel) -> None:
    """Of the torch operators that run, forward and backward, none is a recurrence."""
    judge, ours = pair(torch.float32, num_layers=2)
    x = torch.randn(5, 2, 3)
    assert "aten::lstm" in operators(lambda: judge(x))
    packed = draw_input("packed unsorted", LENGTHS, 3).to(torch.float32)

    def run() -> None:
        ours(packed)[0].data.sum().backward()
        ours.freeze(kernel)(x)

    names = operators(run)
    assert "aten::linear" in names or "aten::mm" in names
    assert not [name for name in names if any(w in name.lower() for w in ("lstm", "rnn", "gru"))]
