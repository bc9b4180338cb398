"""Whatever modules a checkpoint has, a chain of all of them is found, or it is refused in words."""

from __future__ import annotations

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import nn

from bilstm_server.model import ModelConfig
from bilstm_server.model.storage.chain.asking import find_chain
from bilstm_server.model.storage.chain.found import Shape
from bilstm_server.model.storage.chain.graph import draw
from bilstm_server.model.storage.chain.links import POOLINGS, Said
from bilstm_server.model.storage.chain.modules import find_modules
from tests.model.storage.importing.judges import lstm

WIDTHS = st.sampled_from([2, 4, 6])
NAMES = ("lstm", "rnns.0", "rnns.1", "emb", "words", "fc", "fc1", "fc2", "norm", "bn", "a.0", "a.1")

MODULES = st.one_of(
    st.builds(
        lambda width, hidden, both: lstm(width, hidden, bidirectional=both),
        WIDTHS,
        WIDTHS,
        st.booleans(),
    ),
    st.builds(nn.Linear, WIDTHS, WIDTHS, st.booleans()),
    st.builds(nn.Embedding, st.just(9), WIDTHS),
    st.builds(nn.LayerNorm, WIDTHS),
    st.builds(nn.BatchNorm1d, WIDTHS),
    st.builds(nn.Conv1d, WIDTHS, WIDTHS, st.just(3)),
    st.builds(lambda: nn.GRU(2, 2)),
)

SAID = st.builds(
    Said,
    pooling=st.none() | st.sampled_from(list(POOLINGS)),
    per_step=st.booleans(),
    head_activation=st.sampled_from([None, "none", "relu"]),
    head=st.booleans(),
    embedding=st.booleans(),
    ignore_unused=st.booleans(),
    lstm_prefixes=st.sampled_from([(), ("lstm.",), ("rnns.0.", "rnns.1."), ("lstm.", "rnns.0.")]),
    head_prefixes=st.sampled_from([(), ("fc.",), ("fc1.", "fc2.")]),
)


@given(modules=st.dictionaries(st.sampled_from(NAMES), MODULES, max_size=6), said=SAID)
@hypothesis_settings(max_examples=600, deadline=None, derandomize=True)
def test_any_module(modules: dict[str, nn.Module], said: Said) -> None:
    """A chain that is found reads every tensor, but what was said to be left out, once; its graph
    is one that can be. All else is a `ValueError`."""
    shapes: dict[str, Shape] = {
        f"{name}.{key}": tuple(tensor.shape)
        for name, module in modules.items()
        for key, tensor in module.state_dict().items()
        if tensor.dim()
    }
    found = find_modules(shapes)
    try:
        graph = draw(find_chain(found, said), found)
    except ValueError:
        return
    data = {"inputs": graph.inputs, "layers": graph.layers, "outputs": graph.outputs}
    config = ModelConfig.model_validate(data)
    used = sorted(graph.tensors.values())
    assert len(set(used)) == len(used)
    if said.head and said.embedding and not said.ignore_unused:
        assert used == sorted(shapes)
    if any(layer.model_dump()["type"] == "linear" for layer in config.layers):
        assert said.pooling or said.per_step


def test_some_are_found() -> None:
    """The test above is of chains, and not of refusals alone."""
    modules = {"emb": nn.Embedding(9, 2), "lstm": lstm(2, 2), "norm": nn.LayerNorm(4)}
    shapes = {
        f"{name}.{key}": tuple(tensor.shape)
        for name, module in modules.items()
        for key, tensor in module.state_dict().items()
    }
    found = find_modules(shapes)
    graph = draw(find_chain(found, Said()), found)
    assert [layer["name"] for layer in graph.layers[:3]] == ["emb", "lstm", "norm"]
