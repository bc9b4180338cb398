"""What a call brings back: the server's numbers, unharmed, and no more than was requested."""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path
from typing import Any, cast

import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from bilstm_client import (
    NotRequested,
    State,
)
from bilstm_client.types import OutputName
from tests.client.calls.encodings import (
    ALL_OUTPUTS,
    CLASSES,
    HIDDEN_SIZE,
    INPUT_SIZE,
    LAYERS,
    X,
    arrays_of,
    assert_same,
)
from tests.client.clients import AnyClient


def test_all_outputs(client: AnyClient) -> None:
    """Every output that is asked for comes back in its shape, in float32."""
    encoding = client.encode(X, outputs=ALL_OUTPUTS)
    assert {name: array.shape for name, array in arrays_of(encoding).items()} == {
        "states": (7, 2 * HIDDEN_SIZE),
        "final": (2 * HIDDEN_SIZE,),
        "mean": (2 * HIDDEN_SIZE,),
        "max": (2 * HIDDEN_SIZE,),
        "logits": (CLASSES,),
        "hidden": (2 * LAYERS, HIDDEN_SIZE),
        "cell": (2 * LAYERS, HIDDEN_SIZE),
    }
    assert {array.dtype for array in arrays_of(encoding).values()} == {np.dtype("f4")}
    np.testing.assert_allclose(encoding.states.mean(0), encoding.mean, rtol=0, atol=1e-6)
    assert encoding.timing.batch_sequences >= 1
    assert encoding.timing.batch_tokens >= 7


@pytest.mark.parametrize("output", ALL_OUTPUTS)
def test_one_output(output: OutputName, client: AnyClient) -> None:
    """One output may be given as a name alone. What was not asked for raises an error that says
    what to request, and `hasattr` says that it is not there."""
    for outputs in (output, [output]):
        encoding = client.encode(X, outputs=outputs)
        assert encoding.outputs == (output,)
        assert [name for name in ALL_OUTPUTS if hasattr(encoding, name)] == [output]
    for name in set(ALL_OUTPUTS) - {output}:
        with pytest.raises(NotRequested, match=re.escape(f"outputs={[output, name]}")) as caught:
            getattr(encoding, name)
        assert caught.value.name == name
        assert "chunks" not in str(caught.value)


def test_encodings_can_be_copied(client: AnyClient) -> None:
    """A pickled encoding, and a copy, are as it was, and so is the error of what they have not."""
    encoding = client.encode(X, outputs=["states", "state"])
    for duplicate in (pickle.loads(pickle.dumps(encoding)), copy.deepcopy(encoding)):
        assert_same(duplicate, encoding)
        assert (duplicate.timing, repr(duplicate)) == (encoding.timing, repr(encoding))
        with pytest.raises(NotRequested) as caught:
            _ = duplicate.logits
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    with pytest.raises(AttributeError):
        encoding.states = X  # type: ignore[misc]


def test_repr(client: AnyClient) -> None:
    """An encoding shows the type and shape of its arrays, not their numbers."""
    encoding = client.encode(X, outputs=["states", "logits"])
    assert repr(encoding) == "Encoding(states=float32[7, 12], logits=float32[3])"
    half = client.encode(X, outputs=["state"], output_data_type="bfloat16")
    state = "State(hidden=bfloat16[4, 6], cell=bfloat16[4, 6])"
    assert (repr(half), repr(half.state)) == (f"Encoding(state={state})", state)
    assert repr(State(cast(Any, [1.0]), cast(Any, None))) == "State(hidden=[1.0], cell=None)"


def test_results_are_the_callers_own(client: AnyClient) -> None:
    """Every array can be written to, and writing to one leaves the others as they are."""
    encodings = client.encode_batch([X, X], outputs=ALL_OUTPUTS)
    for array in arrays_of(encodings[0]).values():
        array[...] = 7.0
    assert_same(encodings[1], client.encode(X, outputs=ALL_OUTPUTS))


@pytest.mark.parametrize(
    ("name", "dtype", "tolerance"),
    [("float16", np.float16, 1e-3), ("bfloat16", ml_dtypes.bfloat16, 1e-2)],
)
def test_output_data_type(name: Any, dtype: type, tolerance: float, client: AnyClient) -> None:
    """Results come in the type that is asked for, as near as it can hold them."""
    asked = client.encode(X, outputs=ALL_OUTPUTS, output_data_type=name)
    plain = client.encode(X, outputs=ALL_OUTPUTS)
    for field, array in arrays_of(asked).items():
        assert array.dtype == dtype
        np.testing.assert_allclose(
            array.astype("f4"), arrays_of(plain)[field], rtol=tolerance, atol=tolerance
        )


def test_initial_state(client: AnyClient, model_folder: Path) -> None:
    """A state given is where nn.LSTM would start, and the state returned is where it ends."""
    weights = safetensors.torch.load_file(model_folder / "model.safetensors")
    lstm = nn.LSTM(INPUT_SIZE, HIDDEN_SIZE, LAYERS, bidirectional=True)
    lstm.load_state_dict(
        {k.removeprefix("lstm."): t for k, t in weights.items() if k.startswith("lstm.")}
    )
    hidden, cell = torch.randn(2, 2 * LAYERS, HIDDEN_SIZE, generator=torch.manual_seed(3))
    with torch.inference_mode():
        y, (h_n, c_n) = lstm(torch.tensor(X), (hidden, cell))
    for start in (State(hidden.numpy(), cell.numpy()), (hidden, cell)):
        encoding = client.encode(X, outputs=["states", "state"], initial_state=start)
        for ours, theirs in (
            (encoding.states, y),
            (encoding.state.hidden, h_n),
            (encoding.state.cell, c_n),
        ):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


ZEROS = np.zeros((2 * LAYERS, HIDDEN_SIZE))


@pytest.mark.parametrize(
    "wrong", [ZEROS, (ZEROS,), (ZEROS, ZEROS, ZEROS), "hc", {"hidden": ZEROS, "cell": ZEROS}]
)
def test_what_is_no_state(wrong: Any, client: AnyClient) -> None:
    """An initial state is a State or a pair; anything else is a TypeError that says so."""
    with pytest.raises(TypeError, match=r"^initial_states\[0\]: must be a State or a \(hidden, c"):
        client.encode(X, initial_state=wrong)
    with pytest.raises(TypeError, match=r"^initial_states\[1\]: must be a State or a \(hidden, c"):
        client.encode_batch([X, X], initial_states=[State(ZEROS, ZEROS), wrong])


def test_state_of_no_numbers(client: AnyClient) -> None:
    """What is wrong in a state is named by its place."""
    with pytest.raises(TypeError, match=r"^initial_states\[1\]\.cell: must be an array of numbers"):
        client.encode_batch([X, X], initial_states=[(ZEROS, ZEROS), (ZEROS, [["a"]])])


def test_initial_state_round_trip(limited_client: AnyClient) -> None:
    """A unidirectional model goes on from the state it returned, as if never interrupted."""
    whole = limited_client.encode(X, outputs=["states", "state"], model="forward")
    state = None
    parts = []
    for part in np.split(X, [1, 4]):
        encoding = limited_client.encode(
            part, outputs=["states", "state"], model="forward", initial_state=state
        )
        parts.append(encoding.states)
        state = encoding.state
    np.testing.assert_allclose(np.concatenate(parts), whole.states, rtol=0, atol=1e-6)


def test_models(client: AnyClient) -> None:
    """The server's models are listed, the default first, and each can be asked for by name."""
    models = client.list_models()
    assert [model.name for model in models] == ["small", "tokens"]
    assert [client.get_model(model.name) for model in models] == models
    assert client.get_model() == client.get_model("small", "1") == models[0]
    small = models[0]
    assert (small.input_size, small.hidden_size, small.num_layers) == (5, 6, 2)
    assert small.labels == ("red", "green", "blue")
    assert small.outputs == ALL_OUTPUTS
    assert models[1].num_embeddings == 20
    assert "logits" not in models[1].outputs
