"""What a caller may give as a sequence, and what it is for the server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from bilstm_client import (
    InvalidInput,
)
from bilstm_client.types import OUTPUTS, Array
from tests.client.calls.encodings import HIDDEN_SIZE, IDS, INPUT_SIZE, X, assert_same
from tests.client.clients import AnyClient

# Small integers, which every type here holds exactly: so every form must give the same bits.


def strided(dtype: str) -> Array:
    """X as every second row and reversed column of a larger array."""
    large = np.full((2 * X.shape[0], X.shape[1]), np.nan, dtype)
    large[::2] = X[:, ::-1]
    return large[::2, ::-1]


def read_only() -> Array:
    array = X.copy()
    array.flags.writeable = False
    return array


FORMS: dict[str, Callable[[], Any]] = {
    "C": lambda: X,
    "Fortran": lambda: np.asfortranarray(X),
    "transposed": lambda: np.ascontiguousarray(X.T).T,
    "strided": lambda: strided("f4"),
    "strided float64": lambda: strided("f8"),
    "read-only": read_only,
    "float64": lambda: X.astype("f8"),
    "float16": lambda: X.astype("f2"),
    "longdouble": lambda: X.astype(np.longdouble),
    "bfloat16": lambda: X.astype(ml_dtypes.bfloat16),
    "big-endian float32": lambda: X.astype(">f4"),
    "big-endian float64": lambda: X.astype(">f8"),
    "big-endian float16": lambda: X.astype(">f2"),
    "int64": lambda: X.astype("i8"),
    "int8": lambda: X.astype("i1"),
    "big-endian int32": lambda: X.astype(">i4"),
    "nested lists": X.tolist,
    "nested lists of ints": lambda: X.astype(int).tolist(),
    "tuples": lambda: tuple(tuple(row) for row in X.tolist()),
    "list of rows": lambda: list(X),
    "torch": lambda: torch.tensor(X),
    "torch requires grad": lambda: torch.tensor(X, requires_grad=True),
    "torch with a graph": lambda: torch.tensor(X, requires_grad=True) * 1.0,
    "torch parameter": lambda: nn.Parameter(torch.tensor(X)),
    "torch bfloat16": lambda: torch.tensor(X, dtype=torch.bfloat16),
    "torch bfloat16 requires grad": lambda: torch.tensor(
        X, dtype=torch.bfloat16, requires_grad=True
    ),
    "torch float16": lambda: torch.tensor(X, dtype=torch.float16),
    "torch float64": lambda: torch.tensor(X, dtype=torch.float64),
    "torch int64": lambda: torch.tensor(X.astype("i8")),
    "torch transposed": lambda: torch.tensor(np.ascontiguousarray(X.T)).T,
    "torch strided": lambda: torch.tensor(np.repeat(X, 2, axis=0))[::2],
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_a_sequence(form: str, client: AnyClient) -> None:
    """A sequence gives the same result in whatever array, tensor or list it comes."""
    expected = client.encode(X).states
    assert expected.shape == (len(X), 2 * HIDDEN_SIZE)
    np.testing.assert_array_equal(client.encode(FORMS[form]()).states, expected)


ID_FORMS: dict[str, Callable[[], Any]] = {
    "list": IDS.tolist,
    "tuple": lambda: tuple(IDS.tolist()),
    "strided": lambda: np.repeat(IDS, 2)[::2],
    "reversed view": lambda: np.ascontiguousarray(IDS[::-1])[::-1],
    "torch int64": lambda: torch.tensor(IDS),
    "torch int32": lambda: torch.tensor(IDS, dtype=torch.int32),
    "torch uint8": lambda: torch.tensor(IDS, dtype=torch.uint8),
    "torch strided": lambda: torch.tensor(np.repeat(IDS, 2))[::2],
} | {
    dtype: lambda dtype=dtype: IDS.astype(dtype)
    for dtype in ("i1", "i2", "i4", "i8", ">i4", ">i8", "u1", "u2", "u4", "u8")
}


@pytest.mark.parametrize("form", ID_FORMS)
def test_forms_of_token_ids(form: str, client: AnyClient) -> None:
    """Token ids give the same result in whatever integer type or container they come."""
    expected = client.encode(IDS, model="tokens").states
    assert expected.shape == (len(IDS), 2 * HIDDEN_SIZE)
    served = client.encode(ID_FORMS[form](), model="tokens").states
    np.testing.assert_array_equal(served, expected)


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        "abc",
        b"abc",
        NotImplemented,
        [["a", "b"]],
        [[1.0, 2.0], [1.0]],
        [[1.0, None]],
        np.ones((2, INPUT_SIZE), np.complex64),
        np.array(["2020-01-01"], "M8[D]"),
        np.zeros(2, [("a", "f4")]),
    ],
    ids=repr,
)
def test_what_is_no_sequence(wrong: Any, client: AnyClient) -> None:
    """What can't be numbers is refused by the client itself, by a TypeError with its index."""
    with pytest.raises(TypeError, match=r"^sequences\[0\]: must be an array of numbers"):
        client.encode(wrong)
    with pytest.raises(TypeError, match=r"^sequences\[1\]: must be an array of numbers"):
        client.encode_batch([X, wrong])


def fake_tensor() -> Any:
    with FakeTensorMode():
        return torch.ones(7, INPUT_SIZE)


WITHOUT_NUMBERS: dict[str, tuple[Callable[[], Any], str]] = {
    "meta": (lambda: torch.ones(7, INPUT_SIZE, device="meta"), "without data"),
    "fake": (fake_tensor, "without data"),
    "sparse": (lambda: torch.ones(7, INPUT_SIZE).to_sparse(), r"to_dense\(\)"),
    "sparse rows": (lambda: torch.ones(7, INPUT_SIZE).to_sparse_csr(), r"to_dense\(\)"),
    "large sparse": (lambda: torch.ones(100_000, INPUT_SIZE).to_sparse(), r"to_dense\(\)"),
    "large meta": (lambda: torch.ones(100_000, INPUT_SIZE, device="meta"), "without data"),
    "quantised": (
        lambda: torch.quantize_per_tensor(torch.ones(7, INPUT_SIZE), 0.1, 0, torch.qint8),
        r"dequantize\(\)",
    ),
    "nested": (lambda: torch.nested.nested_tensor([torch.ones(7, INPUT_SIZE)]), "nested tensor"),
    "jagged": (
        lambda: torch.nested.nested_tensor([torch.ones(7, INPUT_SIZE)], layout=torch.jagged),
        "nested tensor",
    ),
    "list of meta": (lambda: [torch.ones(INPUT_SIZE, device="meta")] * 7, "array of numbers"),
    "list that requires grad": (
        lambda: [torch.ones(INPUT_SIZE, requires_grad=True)] * 7,
        "array of numbers",
    ),
    "float8": (lambda: torch.ones(7, INPUT_SIZE).to(torch.float8_e4m3fn), "array of numbers"),
    "complex": (lambda: torch.ones(7, INPUT_SIZE, dtype=torch.complex64).conj(), "of numbers"),
}


@pytest.mark.filterwarnings("ignore")  # torch's, of what is new in it or going
@pytest.mark.parametrize("case", WITHOUT_NUMBERS)
def test_tensor_without_numbers(case: str, client: AnyClient) -> None:
    """A tensor that holds no numbers to send is a TypeError that says what it is."""
    make, words = WITHOUT_NUMBERS[case]
    with pytest.raises(TypeError, match=rf"^sequences\[0\]: must .*{words}"):
        client.encode(make())


def test_negated_view(client: AnyClient) -> None:
    """A tensor that is only marked as negative is sent as what it is."""
    negated = torch.complex(torch.zeros(X.shape), torch.tensor(-X)).conj().imag
    assert negated.is_neg()
    np.testing.assert_array_equal(client.encode(negated).states, client.encode(X).states)


INTEGERS: dict[str, Any] = {
    "list": [[1, 2, 3]],
    "int64": np.array([[1, 2, 3]]),
    "int8": np.array([[1, 2, 3]], "i1"),
    "bool": np.array([[True, False, True]]),
    "torch": torch.tensor([[1, 2, 3]]),
}


@pytest.mark.parametrize("form", INTEGERS)
def test_integers_that_are_no_token_ids(form: str, client: AnyClient) -> None:
    """Token ids in a batch of one are refused for their shape, and not as floats."""
    with pytest.raises(InvalidInput) as caught:
        client.encode_batch([IDS, INTEGERS[form]], model="tokens")
    assert caught.value.field == "sequences[1].shape"
    assert caught.value.expected == "must be [T] of token ids, got [1, 3]"


def test_integers_that_are_features(client: AnyClient) -> None:
    """The like for a model that takes floats are its features, and refused as such."""
    with pytest.raises(InvalidInput) as caught:
        client.encode([[1, 2, 3]])
    assert caught.value.field == "sequences[0].shape"
    assert "must be [T, 5] (input_size), got [1, 3]" in caught.value.expected


def test_integers_never_wrap(client: AnyClient) -> None:
    """Token ids beyond int64 are a TypeError, not other ids."""
    with pytest.raises(TypeError, match=r"^sequences\[1\]: .* got 9223372036854775808$"):
        client.encode_batch([IDS, np.array([1, 2**63], "u8")], model="tokens")
    with pytest.raises(TypeError, match=r"^sequences\[0\]: "):
        client.encode([1, 2**64], model="tokens")


@pytest.mark.parametrize("dtype", ["f8", ">f8", np.longdouble])
def test_beyond_float32(dtype: Any, client: AnyClient) -> None:
    """A float beyond float32's range is sent as inf, without a warning."""
    beyond, infinite = X.astype(dtype), X.copy()
    beyond[3, 1], infinite[3, 1] = -1e300, -np.inf
    np.testing.assert_array_equal(client.encode(beyond).states, client.encode(infinite).states)


def test_nan_stays_in_its_sequence(client: AnyClient) -> None:
    """A NaN passes through, and its batch mates know nothing of it."""
    broken = X.copy()
    broken[3, 1] = np.nan
    one, other = client.encode_batch([broken, X])
    assert np.isnan(one.states).any()
    assert_same(other, client.encode(X))


def test_outputs_of_no_list(client: AnyClient) -> None:
    """Outputs that are neither a name nor a list of names are a TypeError."""
    with pytest.raises(TypeError) as caught:
        client.encode(X, outputs=cast(Any, None))
    assert str(caught.value) == "outputs must be a name or a list of names, got None"
    with pytest.raises(ValueError, match="'states,final' is no output"):
        client.encode(X, outputs=cast(Any, "states,final"))


def test_no_outputs(client: AnyClient) -> None:
    """An empty list of outputs is a ValueError that lists what many models have."""
    with pytest.raises(ValueError, match="outputs must name") as caught:
        client.encode(X, outputs=[])
    assert str(caught.value) == f"outputs must name one or more of: {', '.join(OUTPUTS)}"


@pytest.mark.parametrize("name", ["", "bo gus", "1st", "labels.names", "b" * 65, "naïve"])
def test_what_no_output_is_called(name: str, client: AnyClient) -> None:
    """What can't be the name of an output is a ValueError that lists those that many models
    have."""
    with pytest.raises(ValueError, match="is no output") as caught:
        client.encode(X, outputs=["states", name])
    there_are = f"there are: {', '.join(OUTPUTS)}, and a model's own"
    assert str(caught.value) == f"{name!r} is no output; {there_are}"
    with pytest.raises(TypeError, match="outputs must be names, got 7"):
        client.encode_batch([], outputs=cast(Any, [7]))


def test_unknown_output(client: AnyClient) -> None:
    """An output that the model lacks is refused by the server, which names those that it has."""
    for outputs, place in ((["states", "bogus"], 1), ("bogus", 0), (("bogus", "final"), 0)):
        with pytest.raises(InvalidInput, match="'bogus'") as caught:
            client.encode(X, outputs=outputs)
        assert caught.value.field == f"outputs[{place}]"
        assert "states" in caught.value.expected
    with pytest.raises(InvalidInput, match="'bogus'"):
        list(client.encode_stream([X], outputs=["final", "bogus"]))


@pytest.mark.parametrize("name", ["float8", "int32", "unspecified"])
def test_unknown_output_data_type(name: Any, client: AnyClient) -> None:
    """A type that no output can have is a ValueError that lists those that it can."""
    with pytest.raises(ValueError, match="no output_data_type") as caught:
        client.encode(X, output_data_type=name)
    assert str(caught.value).endswith("there are: float32, float16, bfloat16")
