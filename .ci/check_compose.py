"""What `.ci/compose` asks of the running services, from the host, as callers and operators do.

python .ci/check_compose.py files | models FOLDER | running | draining
python .ci/check_compose.py secrets FOLDER | secured FOLDER
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc
import numpy as np
import torch
import trustme
import yaml

sys.path += ["examples/japanese_vowels", "."]

from data import load

from bilstm.v1 import encoder_pb2, encoder_pb2_grpc
from bilstm_client import Client, EncoderError, Unavailable
from bilstm_server.model import import_checkpoint
from tests.project import monitoring

IMAGE, BASE = "bilstm-server:cpu", os.environ["BASE"]
SERVER = f"127.0.0.1:{os.environ['SERVER_PORT']}"
PROMETHEUS = f"http://127.0.0.1:{os.environ['PROMETHEUS_PORT']}"
CALLERS = 16
LARGEST_IMAGE = 850_000_000  # bytes beyond the base
USER = 10001  # the container's
TOKENS = ("a-token-of-ci-that-has-enough-characters", "another-one-of-ci-with-enough-characters")
TRITON_CACHE = "/var/cache/triton"


def say(text: str) -> None:
    print(f"compose: {text}", flush=True)


def docker(*arguments: str, check: bool = True) -> str:
    done = subprocess.run(["docker", *arguments], check=check, capture_output=True, text=True)
    return done.stdout.strip()


def container() -> str:
    label = f"label=com.docker.compose.project={os.environ['COMPOSE_PROJECT_NAME']}"
    service = "label=com.docker.compose.service=server"
    return docker("ps", "--all", "--quiet", "--filter", label, "--filter", service)


def inspect(name: str, template: str) -> str:
    return docker("inspect", "--format", template, name)


def query(expression: str) -> list[float]:
    """The values that Prometheus has for it."""
    values: list[float] = monitoring.query(PROMETHEUS, expression)
    return values


def prometheus_is_ready() -> bool:
    try:
        return bool(urlopen(f"{PROMETHEUS}/-/ready", timeout=10).status == 200)
    except OSError:
        return False


def until(is_so: Callable[[], bool], what: str, seconds: float = 60) -> None:
    give_up_at = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > give_up_at:
            raise SystemExit(f"compose: not within {seconds:.0f} s: {what}")
        time.sleep(0.2)


def add_models(folder: Path) -> None:
    """A model of an operator's own, as `bilstm-server import` writes it."""
    module = torch.nn.Module()
    module.lstm = torch.nn.LSTM(4, 5, bidirectional=True)
    checkpoint = folder.parent / "classifier.pt"
    torch.save(module.state_dict(), checkpoint)
    import_checkpoint(checkpoint, folder / "own")


def check_files() -> None:
    """What `docker compose up` reads on a host with a GPU asks for one, for CUDA, and for a volume
    where Triton compiles to."""
    environment = {k: v for k, v in os.environ.items() if k != "TORCH_INDEX"}
    merged = subprocess.run(
        ["docker-compose", "config"], check=True, capture_output=True, text=True, env=environment
    )
    files = yaml.safe_load(merged.stdout)
    server = files["services"]["server"]
    assert server["image"] == "bilstm-server:cuda"
    assert server["build"]["args"]["TORCH_INDEX"] == ""
    assert server["environment"]["BILSTM_DEVICE"] == "cuda"
    (device,) = server["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert server["deploy"]["resources"]["limits"]["memory"]
    assert f"triton:{TRITON_CACHE}:rw" in server["volumes"]
    assert "triton" in files["volumes"]


def check_container() -> None:
    """It is what an operator wants to run: small, not root, read-only, healthy, with JSON logs."""
    name = container()
    until(lambda: inspect(name, "{{.State.Health.Status}}") == "healthy", "the server is healthy")
    size = int(inspect(IMAGE, "{{.Size}}")) - int(inspect(BASE, "{{.Size}}"))
    say(f"the image has {size / 1e6:.0f} MB beyond its base")
    assert size < LARGEST_IMAGE, size
    assert docker("exec", name, "id", "--user") == "10001"
    for file in ("/x", "/opt/x", "/models/x"):
        assert not docker("exec", name, "sh", "-c", f"touch {file} && echo written || true")
    assert not docker("exec", name, "sh", "-c", "command -v g++ gcc cc || true")
    check_triton_cache()
    logs = subprocess.run(["docker", "logs", name], check=True, capture_output=True, text=True)
    events = [json.loads(line) for line in logs.stderr.splitlines()]
    loaded = {e["model"]: e for e in events if e["event"] == "model loaded"}
    assert set(loaded) == {"japanese_vowels", "own"}, loaded
    assert {e["kernel"] for e in loaded.values()} == {"cpu"}, loaded
    assert loaded["own"]["folder"] == "/models/own"
    assert events[-1]["event"] == "ready", events[-1]


def check_triton_cache() -> None:
    """A volume there is the server's to write, and what is written can be executed."""
    execute = 'cp /bin/true "$TRITON_CACHE_DIR" && "$TRITON_CACHE_DIR/true"'
    volume = ("--read-only", "--volume", TRITON_CACHE, "--network", "none")
    docker("run", "--rm", *volume, "--entrypoint", "sh", IMAGE, "-c", execute)


def check_calls() -> int:
    """The shipped model's logits are right, and the operator's own model answers. Returns the
    number of the shipped model's sequences."""
    _, utterances = load()
    with Client(SERVER) as client:
        encodings = client.encode_batch(utterances.sequences, outputs=["logits"])
        logits = np.stack([encoding.logits for encoding in encodings])
        accuracy = float((logits.argmax(1) == utterances.speakers).mean())
        say(f"accuracy {accuracy:.1%} of {len(logits)} utterances")
        assert accuracy > 0.97
        own = client.encode(np.zeros((3, 4)), model="own").states
        assert own is not None
        assert own.shape == (3, 10)
    return len(logits)


def check_prometheus(sequences: int) -> None:
    """What was called is what Prometheus says, and every expression of the dashboard has data."""
    model = '{model="japanese_vowels"}'
    total = f"bilstm_sequences_total{model}"
    until(prometheus_is_ready, "Prometheus is ready")
    until(lambda: query(total) == [sequences], f"{total} is {sequences}")
    assert query('up{job="bilstm"}') == [1]
    assert query('bilstm_model_info{model="own",kernel="cpu",device="cpu",dtype="float32"}') == [1]
    say(f"Prometheus has scraped {sequences} sequences")
    _, utterances = load()
    with Client(SERVER) as client:

        def all_have_data() -> bool:
            client.encode_batch(utterances.sequences, outputs=["final"])
            client.encode(np.zeros((3, 4)), model="own")
            return not monitoring.without_data(PROMETHEUS)

        until(all_have_data, "every expression of dashboard and rules has data", seconds=120)
    say("every expression of the dashboard and the rules has data")


def check_draining() -> None:
    """SIGTERM under load: every call has its result, or is refused as UNAVAILABLE; exit code 0."""
    _, utterances = load()
    ends: Counter[str] = Counter()
    stopped = threading.Event()

    def call() -> None:
        with Client(SERVER, timeout_seconds=20) as client:
            while not stopped.is_set():
                try:
                    client.encode_batch(utterances.sequences[:20], outputs=["final"])
                    ends["answered"] += 1
                except Unavailable:
                    ends["refused"] += 1
                    return  # tried again for two seconds, and there is no other server
                except EncoderError as error:
                    ends[f"lost: {error!r}"] += 1

    callers = [threading.Thread(target=call) for _ in range(CALLERS)]
    for caller in callers:
        caller.start()
    until(lambda: ends["answered"] > 10 * CALLERS, "there is load")
    name = container()
    docker("stop", "--time", "60", name)
    for caller in callers:
        caller.join(60)
    stopped.set()
    say(f"SIGTERM under load: {dict(ends)}")
    assert set(ends) == {"answered", "refused"}
    assert ends["refused"] == CALLERS
    assert inspect(name, "{{.State.ExitCode}}") == "0"
    logs = subprocess.run(["docker", "logs", name], check=True, capture_output=True, text=True)
    assert json.loads(logs.stderr.splitlines()[-1])["event"] == "drained"


def make_secrets(folder: Path) -> None:
    """What an operator puts into TLS and TOKENS, where the container's user can read it."""
    for name in ("tls", "tokens"):
        (folder / name).mkdir()
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.crt"))
    issued = authority.issue_cert("localhost")
    issued.cert_chain_pems[0].write_to_path(str(folder / "tls/tls.crt"))
    issued.private_key_pem.write_to_path(str(folder / "tls/tls.key"))
    write_token(folder, TOKENS[0])
    for file in (folder / "tls/tls.key", folder / "tokens/tokens"):
        file.chmod(0o400)
        os.chown(file, USER, USER)


def write_token(folder: Path, token: str) -> None:
    """Put another file in the place of the one with the tokens."""
    new = folder / "tokens/new"
    new.write_text(f"ci: {token}\n", encoding="utf-8")
    os.chown(new, USER, USER)
    new.replace(folder / "tokens/tokens")


def check_secured(folder: Path) -> None:
    """It is healthy with TLS and tokens, answers whoever has one, and nobody else, and takes a new
    token from the file that replaces the other."""
    until(lambda: inspect(container(), "{{.State.Health.Status}}") == "healthy", "it is healthy")
    credentials = grpc.ssl_channel_credentials((folder / "ca.crt").read_bytes())
    port = os.environ["SERVER_PORT"]
    channel = grpc.secure_channel(f"localhost:{port}", credentials)

    def answer(channel: grpc.Channel, token: str = "") -> grpc.StatusCode:
        stub: Any = encoder_pb2_grpc.EncoderServiceStub(channel)
        metadata = [("authorization", f"Bearer {token}")] if token else []
        try:
            stub.ListModels(encoder_pb2.ListModelsRequest(), timeout=20, metadata=metadata)
        except grpc.RpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    assert answer(channel, TOKENS[0]) is grpc.StatusCode.OK
    assert answer(channel) is answer(channel, TOKENS[1]) is grpc.StatusCode.UNAUTHENTICATED
    assert answer(grpc.insecure_channel(SERVER), TOKENS[0]) is grpc.StatusCode.UNAVAILABLE
    write_token(folder, TOKENS[1])
    until(lambda: answer(channel, TOKENS[1]) is grpc.StatusCode.OK, "the new token is taken")
    assert answer(channel, TOKENS[0]) is grpc.StatusCode.UNAUTHENTICATED
    say("TLS and tokens are asked for, and a new token is taken while it serves")


def main() -> None:
    match sys.argv[1:]:
        case ["files"]:
            check_files()
        case ["models", folder]:
            add_models(Path(folder))
        case ["running"]:
            check_container()
            check_prometheus(check_calls())
        case ["draining"]:
            check_draining()
        case ["secrets", folder]:
            make_secrets(Path(folder))
        case ["secured", folder]:
            check_secured(Path(folder))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
