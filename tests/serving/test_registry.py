"""What the registry says of a model."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from bilstm_server.callers import Caller, Priority
from bilstm_server.errors import Overloaded, ServiceError
from bilstm_server.metrics import Metrics
from bilstm_server.model import PlainConfig
from bilstm_server.serving.registry import ModelRegistry, ServedModel


@pytest.mark.parametrize(
    ("layers", "words"),
    [(1, "3 inputs, 1 layer of 64, bidirectional"), (2, "3 inputs, 2 layers of 64, bidirectional")],
)
def test_one_layer_is_no_layers(layers: int, words: str) -> None:
    """A model's sizes are in words, one layer as one."""
    config = PlainConfig(input_size=3, hidden_size=64, num_layers=layers).graph()
    model = ServedModel("m", config, None, Metrics().model("m"), 4)  # type: ignore[arg-type]
    assert model.summary.sizes == words


class Full:
    """Takes nothing more in."""

    def refusal(self, caller: str, priority: Priority) -> ServiceError | None:
        return Overloaded("the queue is full", 1.0)


class Open:
    """Takes in whatever comes."""

    def refusal(self, caller: str, priority: Priority) -> ServiceError | None:
        return None


@pytest.mark.parametrize(
    ("models", "refused"), [(None, False), ({"full"}, True), ({"open"}, False), ({"none"}, False)]
)
def test_there_is_room_where_one_may_call(models: set[str] | None, refused: bool) -> None:
    """A caller is refused unread where no model that it may use has room; what others have is
    nothing to it. That it may not use one it is told later."""
    registry, metrics = ModelRegistry(), Metrics()
    config = PlainConfig(input_size=3, hidden_size=4).graph()
    for name, intake in (("full", Full()), ("open", Open())):
        registry.add(ServedModel(name, config, intake, metrics.model(name), 4))  # type: ignore[arg-type]
    registry.complete = True
    caller = Caller("app", "token", models=None if models is None else frozenset(models))
    with pytest.raises(Overloaded) if refused else nullcontext():
        registry.check_room(caller, Priority.NORMAL)
