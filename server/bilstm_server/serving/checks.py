"""What a model takes: shapes, counts, token ids and sizes, each checked against its config.

Every protocol reads its own messages, names its own fields, and asks here. Shapes and counts are
checked before a tensor's bytes are touched. Knows no message and no wire type; each check raises
`InvalidInput` with the field that it is given.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from ..engine.sequences import Array
from ..errors import InvalidInput
from ..model.config import STATE, InputConfig, ModelConfig
from ..quoting import listed, quoted

_INTEGER_BYTES = 4  # integers are sent as int32
_MAX_RANK = 8  # of a shape that an error repeats


def check_sequences(count: int, limit: int, field: str) -> None:
    """Check how many sequences a request has: one at least."""
    if not 1 <= count <= limit:
        raise InvalidInput(field, f"must be 1 to {limit} sequences, got {count}")


def check_tokens(tokens: int, limit: int, field: str) -> None:
    """Check how many steps all sequences of a request have together."""
    if tokens > limit:
        raise InvalidInput(field, f"must have at most {limit} steps in all, got {tokens}")


def check_steps(shape: Sequence[int], field: str, given: InputConfig) -> int:
    """Check the shape of one input of a sequence, or of a part of one: [T, width], or [T] of token
    ids. Returns T."""
    if given.ids:
        if len(shape) != 1:
            raise InvalidInput(field, f"must be [T] of token ids, got {len(shape)} sizes")
    elif len(shape) != 2 or shape[1] != given.width:
        expected = f"[T, {given.width}] (input_size)"
        raise InvalidInput(field, f"must be {expected}, got {list(shape[:_MAX_RANK])}")
    return shape[0]


def check_length(steps: int, limit: int, field: str, config: ModelConfig) -> None:
    """Check how many steps one sequence of a request has: as many as the model needs at least."""
    if not 1 <= steps <= limit:
        instead = "; a stream takes more" if steps else ""
        raise InvalidInput(field, f"must have 1 to {limit} steps, got {steps}{instead}")
    check_min_steps(steps, field, config)


def check_min_steps(steps: int, field: str, config: ModelConfig) -> None:
    """Check that a whole sequence has as many steps as the model needs."""
    if steps < config.min_steps:
        raise InvalidInput(
            field, f"must have at least {config.min_steps} steps for this model, got {steps}"
        )


def check_ids(steps: Array, field: str, given: InputConfig) -> None:
    """Check the values of a sequence of token ids, which has one step at least. Floats may be
    anything."""
    if not given.ids:
        return
    if not (steps.min() >= 0 and steps.max() < given.ids):
        raise InvalidInput(
            field,
            f"token ids must be 0 to {given.ids - 1}, got {steps.min()} to {steps.max()}",
        )
    if given.padding_id is not None and (steps == given.padding_id).any():
        raise InvalidInput(
            field,
            f"token id {given.padding_id} is the model's padding, and sequences are sent without",
        )


def check_output(name: str, field: str, config: ModelConfig) -> None:
    """Check that the model has the output."""
    if name in config.output_names:
        return
    if name == "logits":
        raise InvalidInput(field, "the model has no head, so no logits")
    default = ", which is asked for where nothing else is" if name == "states" else ""
    raise InvalidInput(
        field,
        f"must be one of the model's {listed(config.output_names)}, got {quoted(name)}{default}",
    )


def check_live(outputs: Collection[str], field: str, config: ModelConfig) -> None:
    """Check that outputs can be given of sequences that are still going on."""
    for name in outputs:
        if reason := config.not_live(name):
            raise InvalidInput(field, f"{name} can't be had in a live stream: {reason}")


def check_whole(
    steps: int, outputs: Collection[str], limit: int, field: str, config: ModelConfig
) -> None:
    """Check that a sequence is computed in slices only where the outputs can be."""
    if steps <= limit:
        return
    for name in outputs:
        if reason := config.unsliceable(name):
            raise InvalidInput(
                field,
                f"must have at most {limit} steps for the output {name}, got {steps}: it can't be "
                f"computed in slices ({reason})",
            )


def check_has_state(field: str, config: ModelConfig) -> None:
    """Check that sequences may bring an initial state."""
    if config.state is None:
        raise InvalidInput(
            field,
            "must be empty: the model has several LSTMs, or one with learned states or reversed",
        )


def check_state_count(states: int, sequences: int, field: str) -> None:
    """Check that initial states come for all sequences of a request or for none."""
    if states not in (0, sequences):
        raise InvalidInput(field, f"must be empty or one per sequence ({sequences}), got {states}")


def check_hidden_shape(shape: Sequence[int], field: str, config: ModelConfig) -> None:
    """Check the shape of an initial hidden state: [L*K, P]."""
    assert config.state is not None
    _check_shape(shape, (config.state.rows, config.state.hidden), field)


def check_cell_shape(shape: Sequence[int], field: str, config: ModelConfig) -> None:
    """Check the shape of an initial cell state: [L*K, H]."""
    assert config.state is not None
    _check_shape(shape, (config.state.rows, config.state.cell), field)


def _check_shape(shape: Sequence[int], expected: tuple[int, ...], field: str) -> None:
    got = list(shape[:_MAX_RANK])
    if got != list(expected):
        raise InvalidInput(field, f"must be {list(expected)}, got {got}")


def check_reply(
    outputs: Collection[str],
    lengths: Sequence[int],
    itemsize: int,
    limit: int,
    field: str,
    config: ModelConfig,
) -> int:
    """Check how large the reply would be, before it is computed.

    `lengths` are the steps of each sequence, `itemsize` the bytes of one float, `limit` those of
    the whole reply. Returns the bytes of its tensors.
    """
    size = sum(_output_bytes(name, lengths, itemsize, config) for name in outputs)
    if size > limit:
        raise InvalidInput(
            field,
            f"the reply would be {size} bytes, more than the server's {limit}; send fewer "
            "sequences, ask for fewer outputs or a shorter data type, or use a stream",
        )
    return size


def _output_bytes(name: str, lengths: Sequence[int], itemsize: int, config: ModelConfig) -> int:
    if name == STATE:
        assert config.state is not None
        return (
            len(lengths) * config.state.rows * (config.state.hidden + config.state.cell) * itemsize
        )
    value = config.output_values[name]
    row = _INTEGER_BYTES if value.ids else value.width * itemsize
    if not value.per_step:
        return len(lengths) * row
    if not value.grid.thinnings:
        return sum(lengths) * row
    return int(value.grid.rows(np.asarray(lengths)).sum()) * row
