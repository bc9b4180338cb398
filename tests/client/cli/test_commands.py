"""What is typed into a shell for `bilstm`: arguments, `health` and `models`."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bilstm_client import AsyncClient, Client
from bilstm_client.cli.arguments import parse
from bilstm_client.cli.main import main
from tests.client.cli.files import floats, one_line
from tests.support.commands import COMMANDS, run
from tests.support.engines import gated_server
from tests.support.servers import RunningServer, settings, write_model

# -- arguments --------------------------------------------------------------------------------

BAD_ARGUMENTS: dict[str, tuple[list[str], str]] = {
    "unknown output": (
        ["--outputs", "final,bo-gus"],
        "argument --outputs: 'bo-gus' is no output; "
        "there are: states, final, mean, max, logits, state, labels, probabilities, and a model's",
    ),
    "no output": (["--outputs", ""], "argument --outputs: '' is no output; "),
    "no server": (["--server", ""], "argument --server: target '': must have a host"),
    "web server": (
        ["--server", "http://localhost:50051"],
        "argument --server: target 'http://localhost:50051': write 'localhost:50051', without http://",
    ),
    "nothing in flight": (["--in-flight", "0"], "argument --in-flight: must be 1 or more, got 0"),
    "endless": (["--timeout-seconds", "inf"], "argument --timeout-seconds: timeout_seconds must"),
    "no table": (
        ["--out", "scores.txt"],
        "argument --out: must end in .csv, .jsonl or .parquet, got 'scores.txt'",
    ),
    "a table of outputs": (
        ["--out", "scores.csv", "--outputs", "final"],
        "argument --out: a table is of logits or of labels: no other --outputs",
    ),
    "a table of two outputs": (
        ["--out", "scores.csv", "--outputs", "logits,labels"],
        "argument --out: a table is of logits or of labels: no other --outputs",
    ),
    "a table in a folder": (
        ["--out", "scores.csv", "--out-dir", "results"],
        "argument --out: all results go into one table: no --out-dir",
    ),
    "no number": (["--timeout-seconds", "1s"], "argument --timeout-seconds: could not convert"),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_encode_bad_argument(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A bad argument is one clear line under the usage, and exit code 2."""
    arguments, wrong = BAD_ARGUMENTS[case]
    with pytest.raises(SystemExit) as caught:
        main(["encode", *arguments, "x.npy"])
    assert caught.value.code == 2
    assert f"bilstm encode: error: {wrong}" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("command", ["encode", "models", "health"])
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Help tells the defaults that there are, and shows what may be typed."""
    with pytest.raises(SystemExit):
        main([command, "--help"])
    shown = capsys.readouterr().out
    assert "default: localhost:50051" in shown
    assert "None" not in shown
    assert "default: )" not in shown
    if command != "encode":  # nothing of what others bound by --timeout-seconds
        assert "stream" not in shown
    assert ("--wait waits" in " ".join(shown.split())) == (command == "health")
    examples = shown.partition("\nexamples:\n")[2].splitlines()
    assert examples
    for line in examples:
        for words in line.split(" && "):
            name, *arguments = words.split()
            assert (name, parse(arguments).command) == ("bilstm", arguments[0])


def test_no_server(tmp_path: Path) -> None:
    """Where no server is, the installed command says so in one line, and exits with 1."""
    np.save(tmp_path / "x.npy", floats(2))
    nowhere = "127.0.0.1:1"  # a privileged port that nothing listens on
    failed = run("bilstm", "encode", tmp_path / "x.npy", "--server", nowhere)
    assert failed.returncode == 1
    line = one_line(failed.stderr)
    assert line.startswith(f"no server answers at {nowhere}: ")
    assert "Connection refused" in line


# -- bilstm health ----------------------------------------------------------------------------


def test_health(server: RunningServer, capsys: pytest.CaptureFixture[str]) -> None:
    """`bilstm health` says so and exits 0 where the server is ready."""
    assert main(["health", "--server", server.target]) == 0
    assert capsys.readouterr().out == "ready\n"


async def test_health_of_a_draining_server(model_folder: Path) -> None:
    """`bilstm health` exits 1 in a drain's delay, and where no server listens any more."""
    delayed = settings(model=[("small", model_folder)], drain_delay_seconds=10)
    async with gated_server(delayed) as (app, gated):
        target = f"127.0.0.1:{app.port}"
        async with AsyncClient(target) as client:
            assert await client.is_ready()
            waiting = asyncio.create_task(client.encode(floats(3)))
            await gated.engines[model_folder.name].arrival()
            draining = asyncio.create_task(app.drain())
            while await client.is_ready():  # noqa: ASYNC110 (it is asked over the wire)
                await asyncio.sleep(0)
            failed = await asyncio.to_thread(run, "bilstm", "health", "--server", target)
            gated.open()
            await waiting
            draining.cancel()
    assert (failed.returncode, failed.stderr) == (
        1,
        f"bilstm: the server at {target} is not ready\n",
    )
    gone = run("bilstm", "health", "--server", target)
    assert gone.returncode == 1
    assert gone.stderr.startswith(f"bilstm: no server answers at {target}")


class LoadsForSomeTime(health_pb2_grpc.HealthServicer):
    """Does not serve yet, the first times that it is asked."""

    def __init__(self, times: int):
        self.left = times

    def Check(self, request: Any, context: Any) -> health_pb2.HealthCheckResponse:  # noqa: N802
        self.left -= 1
        status = "SERVING" if self.left < 0 else "NOT_SERVING"
        return health_pb2.HealthCheckResponse(status=status)


@contextmanager
def serving_health(servicer: LoadsForSomeTime) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(1))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_health_wait(capsys: pytest.CaptureFixture[str]) -> None:
    """--wait asks until the server is ready; without it one answer is enough."""
    servicer = LoadsForSomeTime(times=3)
    with serving_health(servicer) as target:
        assert main(["health", "--server", target]) == 1
        line = f"bilstm: the server at {target} is not ready\n"
        assert tuple(capsys.readouterr()) == ("", line)
        assert servicer.left == 2
        assert main(["health", "--wait", "--server", target]) == 0
    assert tuple(capsys.readouterr()) == ("ready\n", "")
    assert servicer.left < 0


@pytest.mark.parametrize("listens", [True, False])
def test_health_waits_no_longer(listens: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """--wait ends after --timeout-seconds, which may be typed as --timeout, with the reason."""
    with serving_health(LoadsForSomeTime(times=1_000_000)) as target:
        target = target if listens else "127.0.0.1:1"  # a privileged port: nothing listens on it
        assert main(["health", "--wait", "--timeout", "0.3", "--server", target]) == 1
    line = one_line(capsys.readouterr().err)
    assert line.startswith(f"{target}: the server was not ready within 0.3 s: ")
    assert ("it does not serve" if listens else "Connection refused") in line


# -- bilstm models, versions ------------------------------------------------------------------


def test_models(server: RunningServer, client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    """`bilstm models` has a block for each model: what it takes, gives and is, and its limits."""
    assert main(["models", "--server", server.target]) == 0
    limits = client.get_model().limits
    limits_line = (
        f"  limits   {limits.max_sequence_tokens:,} steps in a sequence; "
        f"{limits.max_request_sequences:,} sequences, {limits.max_request_tokens:,} steps and "
        f"{limits.max_message_bytes:,} bytes in a request; {limits.max_stream_sequences:,} "
        f"sequences and {limits.max_stream_bytes:,} bytes in flight in a stream"
    )
    assert capsys.readouterr().out.splitlines() == [
        "small version 1 (default)",
        "  takes    [T, 5] floats",
        "  sizes    hidden 6, layers 2, bidirectional",
        "  outputs  states, final, mean, max, logits, state",
        "  classes  3, with 3 labels",
        limits_line,
        "tokens version 1",
        "  takes    [T] token ids below 20",
        "  sizes    hidden 6, layers 2, bidirectional",
        "  outputs  states, final, mean, max, state",
        limits_line,
    ]


def test_models_of_a_token(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A caller whose token is not for the default model is shown none as the default, and one whose
    token is for no model is told so."""
    own, none, tokens = tmp_path / "own", tmp_path / "none", tmp_path / "tokens"
    own.write_text("1" * 32)
    none.write_text("2" * 32)
    tokens.write_text(f"own: {'1' * 32} models=second\nnone: {'2' * 32} models=third\n")
    tokens.chmod(0o600)
    models = [("first", model_folder), ("second", model_folder)]
    running = RunningServer(settings(model=models, tokens_file=tokens))
    try:
        capsys.readouterr()  # the server's own log
        for file in (own, none):
            assert main(["models", "--server", running.target, "--token-file", str(file)]) == 0
    finally:
        running.close()
    said = capsys.readouterr()
    printed = [line for line in said.out.splitlines() if "calls refused" not in line]
    assert printed[0] == "second version 1"
    assert not any("first" in line for line in printed)
    assert said.err == "the token is for none of the server's models\n"


def test_models_of_other_kinds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model's direction and projection are told, and its classes where they have no labels."""
    head = {"num_classes": 4, "pooling": "mean"}
    folder = write_model(tmp_path / "model", bidirectional=False, proj_size=3, head=head)
    running = RunningServer(settings(model=[("forward", folder)]))
    try:
        assert main(["models", "--server", running.target]) == 0
    finally:
        running.close()
    sizes = "  sizes    hidden 6, layers 2, unidirectional, projection 3"
    lines = capsys.readouterr().out.splitlines()
    assert sizes in lines
    assert "  classes  4" in lines


def test_version() -> None:
    """--version names the command and the installed version."""
    done = run("bilstm", "--version")
    assert (done.returncode, done.stdout) == (0, f"bilstm {version('bilstm')}\n")


def test_output_that_nobody_reads(server: RunningServer) -> None:
    """Where what reads the output is gone, as `head` is, a command ends as others do: silently."""
    ours, theirs = os.pipe()
    os.close(ours)
    for unbuffered in ("", "1"):  # it fails at the end, or at the first line
        ended = subprocess.run(
            [COMMANDS / "bilstm", "models", "--server", server.target],
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
            stdout=theirs,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
        assert (ended.returncode, ended.stderr) == (141, "")
    os.close(theirs)


def test_a_client_that_can_not_print(server: RunningServer) -> None:
    """A command whose standard output is full says so in a line."""
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [COMMANDS / "bilstm", "models", "--server", server.target],
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert ended.returncode == 1
    assert ended.stderr == "bilstm: can't write to standard output: No space left on device\n"
