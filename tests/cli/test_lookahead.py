"""`bilstm-server lookahead`: how far live states are from the exact ones, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bilstm_server.cli.main import main
from bilstm_server.model import (
    ModelConfig,
    RaggedBatch,
    SequenceEncoder,
    load_model,
    save_model,
)
from bilstm_server.model.incremental.live import Carried, encode_blocks
from tests.support.servers import write_model

pytestmark = pytest.mark.usefixtures("one_thread")

Array = NDArray[np.generic]


def floats(steps: int, width: int = 5) -> Array:
    return np.random.default_rng(steps).standard_normal((steps, width), dtype=np.float32)


def save(file: Path, *sequences: Array) -> Path:
    """An .npy of one sequence, or an .npz."""
    if file.suffix == ".npy":
        np.save(file, sequences[0])
    else:
        np.savez(file, *sequences)
    return file


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[list[str]]:
    """The table's lines, by words."""
    assert main(["lookahead", *map(str, arguments)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert len({len(line) for line in lines}) == 1  # aligned
    return [line.split() for line in lines]


def deviations(folder: Path, x: Array, block: int, lookahead: int) -> list[float]:
    """Largest and root mean square, of forward and of backward."""
    encoder, steps = load_model(folder), torch.from_numpy(x)
    carried: Carried | None = None
    found = []
    for start in range(0, len(x), block):
        stop = min(start + block, len(x))
        rows = steps[start : stop + lookahead]
        context = len(rows) - (stop - start)
        y, [carried] = encode_blocks(encoder, [rows], [stop - start], [context], [carried])
        found.append(y["states"])
    exact = encoder(steps, RaggedBatch([len(x)]), None, ["states"])["states"]
    halves = (torch.cat(found) - exact).double().chunk(2, dim=1)
    return [float(n) for half in halves for n in (half.abs().max(), half.square().mean().sqrt())]


def test_table(model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For each look-ahead the largest and the root mean square deviation, by direction."""
    x = floats(50)
    file = save(tmp_path / "x.npy", x)
    chosen = ("--model", model_folder, "--block-steps", 8, "--lookahead-steps", "0,3,64")
    head, *lines = run(capsys, file, *chosen, "--kernel", "reference")
    measured = ["forward", "largest", "forward", "rms", "backward", "largest", "backward", "rms"]
    assert head == ["look-ahead", *measured]
    assert [line[0] for line in lines] == ["0", "3", "64"]
    for lookahead, *numbers in lines:
        expected = deviations(model_folder, x, 8, int(lookahead))
        np.testing.assert_allclose([float(n) for n in numbers], expected, rtol=0.02, atol=1e-6)
    backward = [float(line[3]) for line in lines]
    assert backward[0] > backward[1] > 10 * backward[2]


def test_several_files(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every sequence of every file counts, and the defaults need no flag but the model's."""
    files = [save(tmp_path / "a.npz", floats(30), floats(200)), save(tmp_path / "b.npy", floats(9))]
    lines = run(capsys, *files, "--model", model_folder)[1:]
    assert [line[0] for line in lines] == ["0", "4", "8", "16", "32", "64"]
    alone = run(capsys, files[1], "--model", model_folder)[1:]
    assert alone != lines
    assert float(alone[0][4]) < 1e-6  # shorter than a block: exact


def test_token_ids(
    token_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model of token ids takes ids, of any integer type; and any dtype computes."""
    file = save(tmp_path / "ids.npy", np.arange(150, dtype=np.int16) % 20)
    chosen = ("--model", token_model_folder, "--lookahead-steps", "0,150", "--dtype", "bfloat16")
    lines = run(capsys, file, *chosen)[1:]
    assert float(lines[0][3]) > float(lines[1][3])


def test_not_a_number(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A NaN in a sequence is a NaN in the table, whatever else is there."""
    sick = floats(100)
    sick[70] = np.nan
    file = save(tmp_path / "x.npz", floats(80), sick, floats(90))
    [line] = run(capsys, file, "--model", model_folder, "--lookahead-steps", "0")[1:]
    assert line == ["0", *["nan"] * 4]


def no_file(folder: Path) -> Path:
    return folder / "none.npy"


def text(folder: Path) -> Path:
    (folder / "x.npy").write_text("1 2 3")
    return folder / "x.npy"


def empty_file(folder: Path) -> Path:
    (folder / "x.npz").write_bytes(b"")
    return folder / "x.npz"


def objects(folder: Path) -> Path:
    np.save(folder / "x.npy", np.array([{}, None], dtype=object), allow_pickle=True)
    return folder / "x.npy"


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        (no_file, "none.npy: no such file"),
        (text, "x.npy: is no .npy or .npz of numbers"),
        (empty_file, "x.npz: is no .npy or .npz of numbers"),
        (objects, "x.npy: is no .npy or .npz of numbers"),
    ],
)
def test_bad_files(
    file: Any,
    problem: str,
    model_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A file that can't be read ends the command with one line that says why."""
    assert main(["lookahead", str(file(tmp_path)), "--model", str(model_folder)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.endswith(f"{problem}\n")


@pytest.mark.parametrize(
    ("model", "steps", "problem"),
    [
        ("small", floats(4, 6), "expected [T, 5] numbers, got [4, 6] float32"),
        ("small", np.arange(5), "expected [T, 5] numbers, got [5] int64"),
        ("small", np.zeros((0, 5)), "has no steps"),
        ("small", np.zeros((3, 5), dtype="<U1"), "expected [T, 5] numbers, got [3, 5] <U1"),
        ("tokens", floats(4), "expected [T] token ids, got [4, 5] float32"),
        ("tokens", np.arange(25), "token ids must be 0 to 19, got 0 to 24"),
        ("tokens", np.arange(-3, 3), "token ids must be 0 to 19, got -3 to 2"),
        ("tokens", np.arange(0), "has no steps"),
    ],
)
def test_bad_sequences(
    model: str,
    steps: Array,
    problem: str,
    model_folder: Path,
    token_model_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A sequence that the model does not take ends it likewise, with its name."""
    folder = model_folder if model == "small" else token_model_folder
    good = floats(3) if model == "small" else np.arange(3)
    file = save(tmp_path / "x.npz", good, steps)
    assert main(["lookahead", str(file), "--model", str(folder)]) == 1
    assert capsys.readouterr().err == f"bilstm-server: {file}: arr_1: {problem}\n"


def test_one_direction(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model of one direction has nothing to measure."""
    folder = write_model(tmp_path / "one", bidirectional=False)
    file = save(tmp_path / "x.npy", floats(3))
    assert main(["lookahead", str(file), "--model", str(folder)]) == 1
    assert "has one direction" in capsys.readouterr().err


def save_graph(folder: Path, **config: Any) -> Path:
    torch.manual_seed(0)
    save_model(SequenceEncoder(ModelConfig.model_validate(config)), folder)
    return folder


def test_without_states(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a model without states the first output of floats that a live stream has is measured, and
    all its columns together."""
    folder = save_graph(
        tmp_path / "tagger",
        inputs={"features": {"width": 5}},
        layers=[
            {"name": "lstm", "type": "lstm", "hidden_size": 6},
            {"name": "mean", "type": "mean"},
            {"name": "linear", "type": "linear", "inputs": ["lstm"], "width": 4},
        ],
        outputs={"mean": "mean", "emissions": "linear", "states_too": "lstm"},
    )
    file = save(tmp_path / "x.npy", floats(50))
    chosen = ("--model", folder, "--block-steps", 8, "--lookahead-steps", "0,50")
    head, *lines = run(capsys, file, *chosen)
    assert head == ["look-ahead", "largest", "rms"]
    approximate, exact = (float(line[1]) for line in lines)
    assert approximate > 1e-3
    assert exact < 1e-6


@pytest.mark.parametrize(
    ("graph", "problem"),
    [
        (
            {
                "inputs": {"tokens": {"ids": 5}, "features": {"width": 5}},
                "layers": [
                    {"name": "lstm", "type": "lstm", "inputs": ["features"], "hidden_size": 6}
                ],
                "outputs": {"states": "lstm"},
            },
            "reads tokens, features, and files have sequences for one input only",
        ),
        (
            {
                "inputs": {"features": {"width": 5}},
                "layers": [
                    {"name": "lstm", "type": "lstm", "hidden_size": 6},
                    {"name": "mean", "type": "mean"},
                ],
                "outputs": {"mean": "mean"},
            },
            "has no output of floats that a live stream has",
        ),
    ],
    ids=["several inputs", "nothing live"],
)
def test_other_models(
    graph: dict[str, Any], problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model that can't be measured ends the command with one line that says why."""
    folder = save_graph(tmp_path / "model", **graph)
    file = save(tmp_path / "x.npy", floats(3))
    assert main(["lookahead", str(file), "--model", str(folder)]) == 1
    assert capsys.readouterr().err == f"bilstm-server: {folder}: {problem}\n"


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--block-steps", "0"), ("--block-steps", "x"), ("--lookahead-steps", "4,,8")],
)
def test_bad_flags(flag: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A flag that is no number of steps is named."""
    with pytest.raises(SystemExit):
        main(["lookahead", "x.npy", "--model", "m", flag, value])
    assert f"argument {flag}: must be" in capsys.readouterr().err
