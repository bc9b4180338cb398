"""What the examples say, done: every command and program."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from benchmarks.parity.__main__ import main as parity
from benchmarks.parity.cases import CASES
from bilstm_server.model import BiLSTM
from bilstm_server.settings import SHIPPED_MODEL
from bilstm_server.testing import server_process

ROOT = Path(__file__).parents[2]
OPERATOR = ROOT / "examples" / "operator"
STREAMING = ROOT / "examples" / "streaming"
EXAMPLE = ROOT / "examples" / "japanese_vowels"
TAGGER = ROOT / "examples" / "tagger"
# The commands of this environment, as the README's reader has them after `make`.
ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def run(*command: str, cwd: Path = ROOT) -> str:
    """The output of a command that must succeed."""
    done = subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def demo() -> str:
    """What `make demo` prints."""
    return run("make", "--no-print-directory", "demo")


def test_make_demo(demo: str) -> None:
    """`make demo` checks accuracy and equality, reports, and stops by itself."""
    for line in ("accuracy", "equality", "latency", "throughput", "coalescing", "picture"):
        assert re.search(rf"^{line} ", demo, re.MULTILINE), demo
    for callers in ("alone: +", "64 at once: "):
        assert re.search(rf"{callers}p50 [\d.]+ ms, p99 [\d.]+ ms", demo), demo
        assert re.search(rf"{callers}[\d,]+ sequences/s", demo), demo
    assert re.search(r"one call: +[\d,]+ sequences/s", demo), demo


def test_setting_up_the_demo(tmp_path: Path) -> None:
    """`make demo` and `make serve` install the server and no tools for tests and checks."""
    for target in ("demo", "serve"):
        printed = run("make", "--dry-run", f"VENV={tmp_path}/new", target)
        assert re.findall(r"'\.\[(.*?)\]'", printed) == ["server"]


def test_the_demos_picture(demo: str) -> None:
    """The picture has each of the 370 utterances in a cell, most on the diagonal, and states."""
    named = re.search(r"^picture +(\S+):", demo, re.MULTILINE)
    assert named is not None
    svg = ElementTree.parse(ROOT / named[1]).getroot()
    words = [text.text or "" for text in svg.iter(f"{SVG}text")]
    right = re.match(r"(\d+) of 370 speakers", words[0])
    assert right is not None
    assert int(right[1]) >= 0.97 * 370
    speakers = sum(range(9))  # the number of each, beside its row and over its column
    assert sum(int(word) for word in words if word.isdigit()) == 2 * speakers + 370
    assert len(list(svg.iter(f"{SVG}rect"))) > 29 * 128


def test_what_to_try_after_the_demo(demo: str) -> None:
    """The three commands that the demo names run as printed, but for the port."""
    commands = [line.strip().split("   ")[0] for line in demo.partition("next:")[2].splitlines()]
    serve, classify, operator = (command.split() for command in commands)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ports = {"BILSTM_PORT": str(port), "BILSTM_METRICS_PORT": "0"}
    with subprocess.Popen(
        serve, cwd=ROOT, env=ENVIRONMENT | ports, stderr=subprocess.PIPE, start_new_session=True
    ) as server:
        try:
            assert server.stderr is not None
            assert any(b"ready" in line for line in server.stderr)
            assert run(*classify, f"localhost:{port}").startswith("speaker ")
        finally:
            os.killpg(server.pid, signal.SIGTERM)
    run(*operator)


@pytest.mark.slow
def test_training_reaches_the_accuracy_and_repeats(tmp_path: Path) -> None:
    """train.py reaches 97 % on the test set, and the same seed gives the same model."""
    printed = [
        run(sys.executable, str(EXAMPLE / "train.py"), "--out", str(tmp_path / name))
        for name in ("a", "b")
    ]
    accuracy = re.search(r"test accuracy ([\d.]+)%", printed[0])
    assert accuracy is not None
    assert float(accuracy[1]) >= 97
    assert (tmp_path / "a" / "config.json").read_text() == (
        SHIPPED_MODEL.folder / "config.json"
    ).read_text()
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "b")]
    assert weights[0] == weights[1]
    assert len(weights[0]) < 1_000_000


def test_classify_names_the_speaker() -> None:
    """classify.py answers from a served model."""
    with server_process() as server:
        printed = run(sys.executable, str(EXAMPLE / "classify.py"), server.target)
    assert printed.startswith("speaker ")


def test_the_tagger(tmp_path: Path) -> None:
    """The tagger is trained, exported, served and asked, and prints what its page shows."""
    folder = tmp_path / "models" / "tagger"
    printed = run(sys.executable, str(TAGGER / "train_tagger.py"), "--out", str(folder))
    accuracy = re.search(r"([\d.]+)% of the tags are right", printed)
    assert accuracy is not None
    assert float(accuracy[1]) >= 99
    assert "output  alone    together  streamed" in printed
    page = (TAGGER / "README.md").read_text(encoding="utf-8")
    (expected,) = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    with server_process("--model", f"tagger={folder}") as server:
        assert run(sys.executable, str(TAGGER / "tag.py"), server.target) == expected


@pytest.mark.parametrize(
    "program", [EXAMPLE / "classify.py", STREAMING / "endless.py", TAGGER / "tag.py"]
)
def test_an_example_without_a_server(program: Path) -> None:
    """Where no server is, an example says so in one line."""
    done = subprocess.run(
        [sys.executable, program, "localhost:1"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert "no server answers at localhost:1: Connection refused" in done.stderr


def test_the_operator_in_sixty_lines() -> None:
    """lstm.py is nn.LSTM in outputs, states and the gradient of each weight, and says so."""
    printed = run(sys.executable, str(OPERATOR / "lstm.py"))
    found = dict(re.findall(r"^  (\w.*?) +([\d.]+e-\d+)$", printed, re.MULTILINE))
    weights = [
        f"gradient of {name}" for name in torch.nn.LSTM(1, 1, 2, bidirectional=True).state_dict()
    ]
    assert list(found) == ["y", "h_n", "c_n", "gradient of x", *weights]
    assert max(map(float, found.values())) <= 1e-10


def test_the_operator_with_gates_exchanged(tmp_path: Path) -> None:
    """lstm.py fails where it is not nn.LSTM."""
    source = (OPERATOR / "lstm.py").read_text(encoding="utf-8")
    exchanged = source.replace("i, f, g, o = gates", "f, i, g, o = gates")
    assert exchanged != source
    (tmp_path / "exchanged.py").write_text(exchanged, encoding="utf-8")
    done = subprocess.run([sys.executable, tmp_path / "exchanged.py"], capture_output=True)
    assert done.returncode == 1, done.stderr.decode()


def test_inside_nn_lstm() -> None:
    """inside.py prints what docs/operator.md shows of calls and multiplications."""
    printed = run(sys.executable, str(OPERATOR / "inside.py"))
    explained = (ROOT / "docs" / "operator.md").read_text(encoding="utf-8")
    lines = [
        line
        for line in printed.splitlines()
        if re.match(r"batch_sizes|  \[|  float(32|64)|  ragged|  padded, ", line)
    ]
    assert len(lines) == 12
    for line in lines:
        assert line in explained, printed


def test_the_explained_gradients() -> None:
    """The Python of docs/operator.md gives a cell's gradients, as the lines below it say."""
    explained = (ROOT / "docs" / "operator.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"```python\n(def cell_backward.*?)```", explained, re.DOTALL)
    names: dict[str, Any] = {"torch": torch}
    exec(source, names)
    torch.manual_seed(0)
    shapes = ((3, 4), (3, 5), (3, 5), (20, 4), (20, 5), (20,))
    leaves = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    x, h_before, c_before, w_ih, w_hh, bias = leaves
    gates = (x @ w_ih.T + h_before @ w_hh.T + bias).chunk(4, dim=1)
    i, f, o = (gates[index].sigmoid() for index in (0, 1, 3))
    g = gates[2].tanh()
    c = f * c_before + i * g
    h = o * c.tanh()
    dh, dc = torch.randn(2, 3, 5, dtype=torch.float64)
    expected = torch.autograd.grad([h, c], leaves, [dh, dc])
    da, dc_before = names["cell_backward"](dh, dc, c_before, c, i, f, g, o)
    actual = (da @ w_ih, da @ w_hh, dc_before, da.T @ x, da.T @ h_before, da.sum(dim=0))
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


SMALL = ["--hidden", "8", "--sequences", "3", "--repetitions", "1"]


@pytest.mark.usefixtures("one_thread")
def test_parity(capsys: pytest.CaptureFixture[str]) -> None:
    """make parity has a row for each case, type and kernel, and succeeds."""
    assert parity(SMALL) == 0
    printed = capsys.readouterr().out
    assert "0 differences beyond what is promised" in printed
    for row in ("reference  float64 ", "reference  float32 ", "reference  bfloat16 "):
        assert len(re.findall(f"^{row}", printed, re.MULTILINE)) == len(CASES), printed
    for kernel in ("cpu", "gpu"):
        assert re.search(f"^{kernel}(: not here: | +float32 )", printed, re.MULTILINE), printed


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("added", [1e-3, np.nan])
def test_parity_of_another_weight(
    added: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """make parity fails, and names the row, where one weight differs or is no number."""
    from_torch = BiLSTM.from_torch

    def disturbed(lstm: torch.nn.LSTM) -> BiLSTM:
        module = from_torch(lstm)
        with torch.no_grad():
            module.get_parameter("weight_hh_l0")[0, 0] += added
        return module

    monkeypatch.setattr(BiLSTM, "from_torch", staticmethod(disturbed))
    monkeypatch.setattr("benchmarks.parity.__main__.CASES", CASES[:1])
    assert parity(SMALL) == 1
    printed = capsys.readouterr().out
    assert re.search(
        r"^FAILED: reference, float64, 1 layer: outputs differ by", printed, re.MULTILINE
    )


def test_a_folder(tmp_path: Path) -> None:
    """folder.py writes the states of each file, and tells of one that is refused."""
    for name, shape in (("long", (5_000, 12)), ("short", (3, 12)), ("wide", (3, 13))):
        np.save(tmp_path / f"{name}.npy", np.zeros(shape, np.float32))
    with server_process() as server:
        printed = run(sys.executable, str(STREAMING / "folder.py"), str(tmp_path), server.target)
    long, short, wide = printed.splitlines()
    assert (long, short) == ("long.npy: 5000 steps", "short.npy: 3 steps")
    assert "INVALID_ARGUMENT" in wide
    assert np.load(tmp_path / "long.states.npy").shape == (5_000, 128)
    assert not (tmp_path / "wide.states.npy").exists()


def test_a_generator_without_end() -> None:
    """endless.py leaves its loop, and ends."""
    with server_process() as server:
        printed = run(sys.executable, str(STREAMING / "endless.py"), server.target)
    assert len(printed.splitlines()) == 10


def test_a_live_stream() -> None:
    """live.py has a result for each block, the last one exact."""
    with server_process() as server:
        printed = run(sys.executable, str(STREAMING / "live.py"), server.target)
    *blocks, last = printed.splitlines()
    assert len(blocks) == 9
    assert all(line.endswith("forward exact True, reverse exact False") for line in blocks)
    assert last == "steps 180 to 200: forward exact True, reverse exact True"


@pytest.mark.parametrize("name", ["endless", "folder", "live"])
def test_help_of_the_streaming_examples(name: str) -> None:
    """--help says what a program shows and what may be typed, without a server."""
    printed = run(sys.executable, str(STREAMING / f"{name}.py"), "--help")
    assert "[HOST:PORT]" in printed
    assert f"python examples/streaming/{name}.py" in printed


@pytest.mark.parametrize(
    "target", ["demo", "test", "serve", "check", "proto", "docs", "parity", "bench"]
)
def test_make_help_lists(target: str) -> None:
    """`make help` lists every target that the documents name."""
    assert re.search(rf"^{target} ", run("make", "help"), re.MULTILINE)
