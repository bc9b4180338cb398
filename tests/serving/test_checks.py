"""What a model takes, asked in the words of a protocol that has other names for its fields."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from bilstm_server.errors import InvalidInput
from bilstm_server.model import PlainConfig
from bilstm_server.model.config import InputConfig
from bilstm_server.serving import checks

# L*K = 4 rows, P = 3, H = 6, K*P = 6.
FLOATS = PlainConfig(input_size=5, hidden_size=6, num_layers=2, proj_size=3).graph()
(FEATURES,) = FLOATS.inputs.values()
IDS = InputConfig(ids=20, padding_id=3)
FIELD = "inputs[0].contents"


@pytest.mark.parametrize(
    "check",
    [
        lambda: checks.check_sequences(0, 8, FIELD),
        lambda: checks.check_sequences(9, 8, FIELD),
        lambda: checks.check_tokens(17, 16, FIELD),
        lambda: checks.check_length(0, 16, FIELD, FLOATS),
        lambda: checks.check_length(17, 16, FIELD, FLOATS),
        lambda: checks.check_steps((3, 4), FIELD, FEATURES),
        lambda: checks.check_steps((3,), FIELD, FEATURES),
        lambda: checks.check_steps((3, 5), FIELD, IDS),
        lambda: checks.check_ids(np.array([0, 20]), FIELD, IDS),
        lambda: checks.check_ids(np.array([-1, 0]), FIELD, IDS),
        lambda: checks.check_ids(np.array([1, 3]), FIELD, IDS),
        lambda: checks.check_output("nothing", FIELD, FLOATS),
        lambda: checks.check_live(["states", "mean"], FIELD, FLOATS),
        lambda: checks.check_output("logits", FIELD, FLOATS),
        lambda: checks.check_state_count(1, 2, FIELD),
        lambda: checks.check_hidden_shape((4, 6), FIELD, FLOATS),
        lambda: checks.check_cell_shape((4, 3), FIELD, FLOATS),
        lambda: checks.check_reply({"states"}, [10], 4, 239, FIELD, FLOATS),
    ],
)
def test_what_a_model_does_not_take(check: Callable[[], object]) -> None:
    """What a model does not take is refused under the name that the protocol gives."""
    with pytest.raises(InvalidInput) as refusal:
        check()
    assert refusal.value.field == FIELD
    assert refusal.value.expected


def test_what_a_model_takes() -> None:
    """The limits themselves are allowed; the checks return steps and bytes."""
    checks.check_sequences(8, 8, FIELD)
    checks.check_tokens(16, 16, FIELD)
    checks.check_length(16, 16, FIELD, FLOATS)
    assert checks.check_steps((3, 5), FIELD, FEATURES) == 3
    assert checks.check_steps((3,), FIELD, IDS) == 3
    checks.check_ids(np.array([0, 19]), FIELD, IDS)
    checks.check_ids(np.array([[np.nan, -1.0]]), FIELD, FEATURES)
    checks.check_output("state", FIELD, FLOATS)
    for states in (0, 2):
        checks.check_state_count(states, 2, FIELD)
    checks.check_hidden_shape([4, 3], FIELD, FLOATS)
    checks.check_cell_shape([4, 6], FIELD, FLOATS)
    assert checks.check_reply({"states"}, [10], 4, 240, FIELD, FLOATS) == 240
    checks.check_live(["states"], FIELD, FLOATS)
    every = set(FLOATS.output_names)
    per_sequence = 3 * 6 + 4 * (3 + 6)
    assert checks.check_reply(every, [3, 7], 2, 10**6, FIELD, FLOATS) == 2 * (60 + 2 * per_sequence)
