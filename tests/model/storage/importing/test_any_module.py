"""Whatever modules a checkpoint has, a chain of all of them is found, or it is refused in words."""

from __future__ import annotations

from collections import Counter

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

WIDTHS = st.integers(1, 5).map(lambda width: 2 * width)
NAMES = ("fc", "fc1", "fc2", "norm", "ln", "a.0", "a.1", "a.2", "words", "emb", "rnns.0", "rnns.1")


def made(kind: str, width: int, gives: int) -> nn.Module:
    if kind == "norm":
        return nn.LayerNorm(width)
    if kind == "batch norm":
        return nn.BatchNorm1d(width)
    if kind == "linear":
        return nn.Linear(width, gives, bias=gives > 4)
    return lstm(width, gives // 2)


@st.composite
def chains(draw: st.DrawFn) -> dict[str, nn.Module]:
    """Modules of which each reads what one before gives, mostly: in any order, with any names."""
    width = draw(WIDTHS)
    modules: list[nn.Module] = [nn.Embedding(9, width)] if draw(st.booleans()) else []
    before = draw(st.lists(st.sampled_from(["norm", "batch norm", "linear", "lstm"]), max_size=2))
    behind = draw(st.lists(st.sampled_from(["norm", "linear"]), max_size=2))
    for kind in [*before, "lstm", *behind]:
        gives = draw(WIDTHS)
        modules.append(made(kind, width, gives))
        width = gives if kind in ("linear", "lstm") else width
    if draw(st.integers(0, 5)) == 0:
        others = [nn.Conv1d(4, 4, 3), nn.GRU(4, 4), nn.Linear(7, 3), nn.Linear(width, 2)]
        modules.append(draw(st.sampled_from(others)))
    names = draw(st.permutations(NAMES))
    named = [
        ("lstm" if isinstance(module, nn.LSTM) and name != "rnns.0" else name, module)
        for name, module in zip(names, modules, strict=False)
    ]
    return dict(draw(st.permutations(named)))


OTHERS = {
    "head_activation": st.sampled_from([None, "none", "none", "relu"]),
    "head": st.sampled_from([*[True] * 5, False]),
    "embedding": st.sampled_from([*[True] * 6, False]),
    "ignore_unused": st.booleans(),
    "lstm_prefixes": st.sampled_from([*[()] * 6, ("lstm.",), ("rnns.0.", "lstm.")]),
    "head_prefixes": st.sampled_from([*[()] * 6, ("fc.",), ("fc1.", "fc2.")]),
}
SAID = st.one_of(
    st.builds(Said, **OTHERS),
    st.builds(Said, pooling=st.sampled_from(list(POOLINGS)), **OTHERS),
    st.builds(Said, per_step=st.just(True), **OTHERS),
)


def test_any_modules() -> None:
    """A chain that is found reads every tensor, but what was said to be left out, once, and is a
    graph that can be. All else is a `ValueError`, in words, and some of both is among these."""
    outcomes: Counter[str] = Counter()

    @given(modules=chains(), said=SAID)
    @hypothesis_settings(max_examples=1500, deadline=None, derandomize=True)
    def check(modules: dict[str, nn.Module], said: Said) -> None:
        shapes: dict[str, Shape] = {
            f"{name}.{key}": tuple(tensor.shape)
            for name, module in modules.items()
            for key, tensor in module.state_dict().items()
            if tensor.dim()
        }
        found = find_modules(shapes)
        try:
            graph = draw(find_chain(found, said), found)
        except ValueError as error:
            outcomes["asked" if "no tensor tells" in str(error) else "refused"] += 1
            return
        data = {"inputs": graph.inputs, "layers": graph.layers, "outputs": graph.outputs}
        config = ModelConfig.model_validate(data)
        types = [layer.model_dump()["type"] for layer in config.layers]
        used = sorted(graph.tensors.values())
        assert len(set(used)) == len(used)
        if said.head and said.embedding and not said.ignore_unused:
            assert used == sorted(shapes)
        if "linear" in types:
            assert said.pooling or said.per_step
        outcomes["with a head" if "linear" in types else "without a head"] += 1

    check()
    assert min(outcomes.values()) >= 10, outcomes
    assert len(outcomes) == 4
