"""An imported checkpoint is served with the numbers that torch's own modules give, whatever its
types, prefixes, pooling and layout; what is served is asked for over the wire.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bilstm_client import Client
from bilstm_server.cli import main as cli
from bilstm_server.model.storage.chain.links import POOLINGS
from tests.model.storage.importing.checkpoints import Classifier, classifier, write
from tests.support.servers import RunningServer, settings

LENGTHS = (4, 1, 7)
VOCABULARY = 11


def inputs(model: Classifier, seed: int = 1) -> list[Tensor]:
    """Sequences of LENGTHS for the model: floats, or token ids."""
    generator = torch.Generator().manual_seed(seed)
    if model.embedding is not None:
        return [torch.randint(VOCABULARY, (n,), generator=generator) for n in LENGTHS]
    return [torch.randn(n, model.lstm.input_size, generator=generator) for n in LENGTHS]


@pytest.fixture(scope="module")
def servers() -> Iterator[list[RunningServer]]:
    """Servers to close after the last test, all at once: each takes a while."""
    running: list[RunningServer] = []
    yield running
    with ThreadPoolExecutor() as pool:
        list(pool.map(RunningServer.close, running))


@pytest.fixture
def serve_imported(servers: list[RunningServer], tmp_path: Path) -> Iterator[Callable[..., Client]]:
    """Imports a checkpoint by the command, serves the folder, and gives a client of it."""
    with ExitStack() as clients:

        def serve(
            tensors: Mapping[str, Tensor],
            *flags: str,
            name: str = "model.pt",
            pooling: str | None = "last",
        ) -> Client:
            checkpoint, folder = write(tensors, tmp_path / name), tmp_path / "imported"
            flags += () if pooling is None else ("--pooling", pooling)
            assert cli.main(["import", str(checkpoint), "--out", str(folder), *flags]) == 0
            servers.append(RunningServer(settings(model=[("imported", folder)])))
            return clients.enter_context(Client(servers[-1].target))

        yield serve


def served_logits(client: Client, sequences: list[Tensor]) -> list[Any]:
    return [e.logits for e in client.encode_batch(sequences, outputs=["logits"])]


def assert_same_logits(client: Client, model: Classifier) -> None:
    """Each served sequence has the logits that the model itself gives it alone."""
    sequences = inputs(model)
    with torch.inference_mode():
        expected = [model(x.unsqueeze(0))[0] for x in sequences]
    for served, own in zip(served_logits(client, sequences), expected, strict=True):
        np.testing.assert_allclose(served, own.float().numpy(), rtol=0, atol=1e-5)


VARIANTS: dict[str, dict[str, Any]] = {
    "usual": {},
    "embedding": {"vocabulary": VOCABULARY},
    "projection": {"proj_size": 2},
    "unidirectional": {"bidirectional": False},
    "without bias": {"bias": False},
    "one layer": {"num_layers": 1},
}


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_served_logits_are_the_models_own(
    variant: str, suffix: str, serve_imported: Callable[..., Client]
) -> None:
    """A trained classifier, imported and served, gives the logits that it gives itself."""
    model = classifier(**VARIANTS[variant])
    assert_same_logits(serve_imported(model.state_dict(), name=f"model{suffix}"), model)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_other_dtypes(
    dtype: torch.dtype, suffix: str, serve_imported: Callable[..., Client]
) -> None:
    """A checkpoint in another floating type is served in float32, with its weights' values."""
    model = classifier().to(dtype)
    client = serve_imported(model.state_dict(), name=f"model{suffix}")
    assert_same_logits(client, model.float())


@pytest.mark.parametrize("prefix", ["module.", "encoder.rnn.", "_orig_mod."])
def test_other_prefixes(prefix: str, serve_imported: Callable[..., Client]) -> None:
    """The prefixes say where in a checkpoint the LSTM, the head and the embedding are."""
    model = classifier(vocabulary=VOCABULARY)
    names = {"lstm.": f"{prefix}lstm.", "fc.": f"{prefix}clf.", "embedding.": f"{prefix}words."}
    renamed = {
        next(new + key.removeprefix(old) for old, new in names.items() if key.startswith(old)): t
        for key, t in model.state_dict().items()
    }
    flags = ("--lstm-prefix", "--head-prefix", "--embedding-prefix")
    pairs = zip(flags, names.values(), strict=True)
    client = serve_imported(renamed, *(part for pair in pairs for part in pair))
    assert_same_logits(client, model)


def test_bare_lstm(serve_imported: Callable[..., Client]) -> None:
    """nn.LSTM's own state_dict is served under the empty prefix, without a head."""
    model = classifier()
    client = serve_imported(model.lstm.state_dict(), "--lstm-prefix", "", pooling=None)
    for x in inputs(model):
        with torch.inference_mode():
            expected = model.outputs(x.unsqueeze(0))[0]
        states = client.encode(x).states
        assert states is not None
        np.testing.assert_allclose(states, expected, rtol=0, atol=1e-5)
    assert client.get_model().num_classes == 0


def test_empty_lstm_prefix_beside_a_head(serve_imported: Callable[..., Client]) -> None:
    """Under the empty prefix the LSTM's tensors are those that no other prefix claims."""
    model = classifier()
    head = {f"fc.{name}": tensor for name, tensor in model.fc.state_dict().items()}
    client = serve_imported(model.lstm.state_dict() | head, "--lstm-prefix", "")
    assert_same_logits(client, model)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_poolings(pooling: str, serve_imported: Callable[..., Client]) -> None:
    """The head reads the outputs as --pooling says."""
    model = classifier()
    client = serve_imported(model.state_dict(), pooling=pooling)
    sequences = inputs(model)
    with torch.inference_mode():
        for x, served in zip(sequences, served_logits(client, sequences), strict=True):
            out = model.outputs(x.unsqueeze(0))[0]
            width = model.width
            pooled = {
                "last": out[-1],
                "first": out[0],
                "final": torch.cat([out[-1, :width], out[0, width:]]),
                "mean": out.mean(0),
                "max": out.max(0).values,
                "sum": out.sum(0),
            }[pooling]
            np.testing.assert_allclose(served, model.fc(pooled), rtol=0, atol=1e-5)


def test_labels_and_version(serve_imported: Callable[..., Client]) -> None:
    """Labels and the version given at import are what the server says of the model."""
    flags = ("--labels", "a,b,c,d,é", "--model-version", "7")
    described = serve_imported(classifier().state_dict(), *flags).get_model()
    assert described.labels == ("a", "b", "c", "d", "é")
    assert described.version == "7"
    assert described.num_classes == 5


def test_ignored_tensors(serve_imported: Callable[..., Client]) -> None:
    """Counters are left out, and the head stays."""
    model = classifier()
    others = {"optimizer.step": torch.tensor(3)}
    assert_same_logits(serve_imported(model.state_dict() | others), model)


def test_tied_weights(serve_imported: Callable[..., Client]) -> None:
    """Tensors of a checkpoint may share their memory, as tied weights do."""
    model = classifier(num_layers=1)
    model.lstm.weight_hh_l0_reverse = model.lstm.weight_hh_l0
    assert_same_logits(serve_imported(model.state_dict()), model)


def test_views_of_one_buffer(serve_imported: Callable[..., Client]) -> None:
    """Tensors may be views of one flat buffer, as cuDNN lays nn.LSTM's weights out."""
    model = classifier()
    weights = model.state_dict()
    flat = torch.cat([tensor.flatten() for tensor in weights.values()])
    pieces = torch.split(flat, [tensor.numel() for tensor in weights.values()])
    views = {k: piece.view_as(t) for (k, t), piece in zip(weights.items(), pieces, strict=True)}
    assert_same_logits(serve_imported(views), model)
