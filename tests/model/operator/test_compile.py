"""`BiLSTM` under torch.compile, which leaves it as it is. The judge is nn.LSTM with the same
weights, or the module as it is.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.exc import Unsupported
from torch._dynamo.testing import CompileCounter

from bilstm_server.model import BiLSTM
from tests.model.operator.around import AROUND, Tagger
from tests.support.lstms import assert_close, pair

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace"),
    # Which torch.compile raises and hides itself, as it looks at each tensor that is passed on.
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    """A compiler that has compiled nothing yet."""
    torch._dynamo.reset()


@pytest.mark.parametrize("around", AROUND)
def test_graphs(around: str, module: BiLSTM) -> None:
    """torch.compile makes the same few graphs for all lengths, of what is around it, and compiles
    nothing again.
    """
    outer, counter = AROUND[around](module), CompileCounter()
    compiled = torch.compile(outer, backend=counter, dynamic=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for steps in (5, 7, 2, 9, 12):
            x = torch.randn(steps, 3) if around == "ragged" else torch.randn(steps, 2, 3)
            assert_close(compiled(x), outer(x), 1e-6)
    assert counter.frame_count == (0 if around == "alone" else 2)


def test_compiled_training(x: Tensor) -> None:
    """Within a module that is compiled it trains as nn.LSTM does."""
    judge, ours = pair(torch.float32)
    outer, expected = Tagger(ours), Tagger(judge)
    expected.load_state_dict(outer.state_dict())
    for run in (torch.compile(outer, backend="aot_eager"), expected):
        run(x).square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in outer.named_parameters()}
    assert_close(gradients, {n: p.grad for n, p in expected.named_parameters()}, 1e-5)


@pytest.mark.slow
def test_compile(module: BiLSTM, judge: nn.LSTM, x: Tensor) -> None:
    """torch.compile leaves the results as they are, of every number of steps."""
    compiled = torch.compile(module, backend="aot_eager")
    with torch.no_grad():
        for steps in (x, torch.cat([x, x]), x[:2]):
            assert_close(compiled(steps), judge(steps), 1e-5)


@pytest.mark.parametrize("around", AROUND)
def test_one_graph(around: str, module: BiLSTM, x: Tensor) -> None:
    """What would need it to be part of one graph is refused, with what to do."""
    outer, steps = AROUND[around](module), x if around != "ragged" else x[:, 0]
    with pytest.raises(Unsupported, match=r"leave out fullgraph=True, .* to_torch\(\)"):
        torch.compile(outer, fullgraph=True, backend="eager")(steps)
    with pytest.raises(Unsupported, match=r"for torch\.export give strict=False"):
        torch.export.export(outer, (steps,), strict=True)


def test_import() -> None:
    """Where nobody compiles, the compiler, which is large, is not imported."""
    script = """
import sys, torch
from bilstm_server.model import BiLSTM
lstm = BiLSTM(3, 4).eval()
for kernel in ("reference", "auto"):
    lstm(torch.randn(5, 2, 3))
    lstm.freeze(kernel).forward_ragged(torch.randn(5, 3), [3, 2])
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)
