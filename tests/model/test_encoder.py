"""`SequenceEncoder`: embedding, BiLSTM, pooling and head over a ragged batch.

The judge is nn.LSTM run on each sequence alone, with plain torch operations behind it.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bilstm_server.model import PlainConfig, Pooling, RaggedBatch, SequenceEncoder

LENGTHS = (3, 1, 6, 6, 2)
VOCABULARY = 9
EVERY = ("states", "final", "mean", "max", "logits", "state")

SIZES: dict[str, dict[str, Any]] = {
    "two layers": {"num_layers": 2},
    "one direction": {"bidirectional": False},
    "projection": {"proj_size": 2, "num_layers": 2},
    "one direction, projection": {"bidirectional": False, "proj_size": 3},
    "no bias": {"bias": False},
    "embedding": {"embedding": {"num_embeddings": VOCABULARY}},
}
every_size = pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)


def config_of(sizes: dict[str, Any], pooling: Pooling = Pooling.LAST) -> PlainConfig:
    defaults = {"input_size": 3, "hidden_size": 4, "head": {"num_classes": 5, "pooling": pooling}}
    return PlainConfig.model_validate(defaults | sizes)


def encoder_of(
    sizes: dict[str, Any], pooling: Pooling = Pooling.LAST, seed: int = 0
) -> SequenceEncoder:
    torch.manual_seed(seed)
    return SequenceEncoder(config_of(sizes, pooling).graph()).double()


def sequences_for(encoder: SequenceEncoder, seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    (given,) = encoder.config.inputs.values()
    if given.ids:
        return [torch.randint(VOCABULARY, (n,), generator=generator) for n in LENGTHS]
    width = given.value.width
    return [torch.randn(n, width, generator=generator, dtype=torch.float64) for n in LENGTHS]


def states_for(encoder: SequenceEncoder, seed: int = 2) -> tuple[Tensor, Tensor]:
    """Random initial states, [layers*K, B, P] and [layers*K, B, H]."""
    generator = torch.Generator().manual_seed(seed)
    assert encoder.config.state is not None
    rows, *widths, _ = encoder.config.state
    h_0, c_0 = (
        torch.randn(rows, len(LENGTHS), width, generator=generator, dtype=torch.float64)
        for width in widths
    )
    return h_0, c_0


def judge_of(encoder: SequenceEncoder, config: PlainConfig) -> nn.LSTM:
    lstm = nn.LSTM(
        config.input_size,
        config.hidden_size,
        config.num_layers,
        bias=config.bias,
        bidirectional=config.bidirectional,
        proj_size=config.proj_size,
        dtype=torch.float64,
    )
    lstm.load_state_dict(encoder.lstms[0].state_dict())
    return lstm


def pooled(pooling: Pooling, y: Tensor, width: int) -> Tensor:
    """[T, K*P] -> [K*P]; `width` is P."""
    return {
        Pooling.LAST: y[-1],
        Pooling.FINAL: torch.cat([y[-1, :width], y[0, width:]]),
        Pooling.MEAN: y.mean(0),
        Pooling.MAX: y.max(0).values,
    }[pooling]


def close(ours: Tensor | None, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@every_size
@pytest.mark.parametrize("pooling", Pooling)
@pytest.mark.parametrize("with_states", [False, True])
def test_every_output(sizes: dict[str, Any], pooling: Pooling, with_states: bool) -> None:
    """Each output of each sequence is what nn.LSTM and torch make of that sequence alone."""
    encoder = encoder_of(sizes, pooling)
    config = config_of(sizes, pooling)
    judge = judge_of(encoder, config)
    parameters = encoder.state_dict()
    sequences = sequences_for(encoder)
    hx = states_for(encoder) if with_states else None
    with torch.inference_mode():
        ours = encoder(torch.cat(sequences), RaggedBatch(LENGTHS), hx, EVERY)
        rows = ours["states"].split(LENGTHS)
        width = config.state_size
        for index, x in enumerate(sequences):
            own = None if hx is None else (hx[0][:, index], hx[1][:, index])
            steps = parameters["embedding.weight"][x] if config.embedding else x
            y, (h_n, c_n) = judge(steps, own)
            close(rows[index], y)
            close(ours["hidden"][:, index], h_n)
            close(ours["cell"][:, index], c_n)
            for name in (Pooling.FINAL, Pooling.MEAN, Pooling.MAX):
                close(ours[name][index], pooled(name, y, width))
            logits = nn.functional.linear(
                pooled(pooling, y, width), parameters["head.weight"], parameters["head.bias"]
            )
            close(ours["logits"][index], logits)


@pytest.mark.parametrize("output", EVERY)
def test_one_output(output: str) -> None:
    """What is not asked for is not there."""
    encoder = encoder_of({})
    encodings = encoder(
        torch.cat(sequences_for(encoder)), RaggedBatch(LENGTHS), None, frozenset({output})
    )
    assert list(encodings) == (["hidden", "cell"] if output == "state" else [output])


@pytest.mark.parametrize("pooling", Pooling)
@pytest.mark.parametrize("sizes", [SIZES["two layers"], SIZES["embedding"]], ids=["floats", "ids"])
def test_trains(sizes: dict[str, Any], pooling: Pooling) -> None:
    """An encoder trains through autograd: every parameter has a gradient, and the loss falls."""
    encoder = encoder_of(sizes, pooling)
    x, batch = torch.cat(sequences_for(encoder)), RaggedBatch(LENGTHS)
    labels = torch.arange(len(LENGTHS))
    optimizer = torch.optim.Adam(encoder.parameters(), lr=0.05)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        logits = encoder(x, batch, outputs=["logits"])["logits"]
        loss = nn.functional.cross_entropy(logits, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    gradients = [parameter.grad for parameter in encoder.parameters()]
    assert all(g is not None and g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("pooling", Pooling)
@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("step", [0, 3, 5])
def test_poison_stays_in_its_sequence(pooling: Pooling, poison: float, step: int) -> None:
    """A NaN or infinity in one sequence leaves every output of its batch mates as it was."""
    encoder = encoder_of(SIZES["two layers"], pooling)
    sequences = sequences_for(encoder)
    guilty = 2
    with torch.inference_mode():
        clean = encoder(torch.cat(sequences), RaggedBatch(LENGTHS), None, EVERY)
        sequences[guilty] = sequences[guilty].clone()
        sequences[guilty][step] = poison
        poisoned = encoder(torch.cat(sequences), RaggedBatch(LENGTHS), None, EVERY)
    innocent = [index for index in range(len(LENGTHS)) if index != guilty]
    for name in ("final", "mean", "max", "logits"):
        torch.testing.assert_close(poisoned[name][innocent], clean[name][innocent], rtol=0, atol=0)
    for name in ("hidden", "cell"):
        torch.testing.assert_close(
            poisoned[name][:, innocent], clean[name][:, innocent], rtol=0, atol=0
        )
    for index in innocent:
        torch.testing.assert_close(
            poisoned["states"].split(LENGTHS)[index],
            clean["states"].split(LENGTHS)[index],
            rtol=0,
            atol=0,
        )
    if poison != poison:  # the guilty one shows it: a NaN is not pooled away
        for name in ("final", "mean", "max", "logits"):
            assert poisoned[name][guilty].isnan().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_outputs_have_the_models_dtype(dtype: torch.dtype) -> None:
    """Every output is in the dtype of the weights."""
    encoder = encoder_of({}).to(dtype)
    x = torch.cat(sequences_for(encoder)).to(dtype)
    encodings = encoder(x, RaggedBatch(LENGTHS), None, EVERY)
    assert {tensor.dtype for tensor in encodings.values()} == {dtype}


def test_long_bfloat16_mean() -> None:
    """The mean of a long bfloat16 sequence keeps its digits: the sum is wider than its terms."""
    encoder = encoder_of({}).to(torch.bfloat16)
    steps = 5000
    x = torch.ones(steps, 3, dtype=torch.bfloat16)
    with torch.inference_mode():
        asked = ["states", "mean"]
        encodings = encoder(x, RaggedBatch([steps]), None, asked)
        exact = encodings["states"].double().mean(0)
    torch.testing.assert_close(encodings["mean"][0].double(), exact, rtol=2**-8, atol=1e-3)


def test_an_output_that_is_not_there() -> None:
    """Asking a model without a head for logits is a KeyError."""
    encoder = encoder_of({"head": None})
    x = torch.cat(sequences_for(encoder))
    with pytest.raises(KeyError, match="logits"):
        encoder(x, RaggedBatch(LENGTHS), None, ["logits"])
