"""Copies of layers of the CPU kernel, its children after a fork, and a process without memory."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bilstm_server.model.bilstm import BiLSTM
from bilstm_server.model.kernels import choose_kernel as choose
from bilstm_server.model.kernels.cpu import kernel
from tests.model.kernels.cpu.fastest import CPU
from tests.support.lstms import draw_states, pair


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_copies(dtype: torch.dtype, duplicate: Callable[[BiLSTM], BiLSTM], installed: Path) -> None:
    """A deep or pickled copy of a frozen module gives the same bits, and outlives the first."""
    _, ours = pair(dtype, input_size=9, hidden_size=21, num_layers=2, proj_size=10)
    x, hx = torch.randn(12, 9, dtype=dtype), draw_states(ours, 3)
    y, states = ours.freeze(choose("cpu", CPU).kernel).forward_ragged(x, [3, 7, 2], hx)
    theirs = duplicate(ours)
    del ours
    actual, actual_states = theirs.forward_ragged(x, [3, 7, 2], hx)
    assert torch.equal(actual, y)
    assert all(map(torch.equal, actual_states, states))


def test_copy_where_none_is_compiled(installed: Path) -> None:
    """A pickled frozen module is loaded elsewhere too: there the reference kernel runs it."""
    _, ours = pair(torch.float32)
    x = torch.randn(12, 3)
    y, _ = ours.freeze(choose("cpu", CPU).kernel).forward_ragged(x, [3, 7, 2])
    pickled = pickle.dumps(ours)
    installed.unlink()
    kernel.load.cache_clear()
    torch.testing.assert_close(pickle.loads(pickled).forward_ragged(x, [3, 7, 2])[0], y)


def run_script(script: str, library: Path) -> None:
    """Run it in a process of its own, after what every script begins with."""
    begin = (
        "import os, resource, sys\n"
        "from pathlib import Path\n"
        "import torch\n"
        "from bilstm_server.model.bilstm import BiLSTM\n"
        "from bilstm_server.model.kernels.cpu.kernel import CpuKernel\n"
        "kernel = CpuKernel(Path(sys.argv[1]))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", begin + script, str(library)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr


def test_forked_child(installed: Path) -> None:
    """A child that is forked after threads shared the work, which it does not have, computes the
    same bits, and so does its parent afterwards."""
    script = """
torch.set_num_threads(3)
lstm = BiLSTM(24, 40).freeze(kernel)
lengths = [5] * 60
x = torch.randn(300, 24)
run = lambda: lstm.forward_ragged(x, lengths)[0].numpy().tobytes()
expected = run()
child = os.fork()
if child == 0:
    os._exit(0 if run() == run() == expected else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert run() == expected
"""
    run_script(script, installed)


def test_no_memory(installed: Path) -> None:
    """Without memory for its buffers a layer raises MemoryError, and runs once there is some."""
    script = """
lstm = BiLSTM(1, 2**18, proj_size=1, bidirectional=False).freeze(kernel)
x = torch.randn(3, 1)
size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
resource.setrlimit(resource.RLIMIT_AS, (size + 2**26, resource.RLIM_INFINITY))
try:
    lstm.forward_ragged(x, [3])
except MemoryError:
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert lstm.forward_ragged(x, [3])[0].isfinite().all()
else:
    sys.exit("it had memory enough")
"""
    run_script(script, installed)
