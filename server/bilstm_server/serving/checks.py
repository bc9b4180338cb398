"""What a model takes: shapes, counts, token ids and sizes, each checked against its config.

Every protocol reads its own messages, names its own fields, and asks here. Shapes and counts are
checked before a tensor's bytes are touched. Knows no message and no wire type; each check raises
`InvalidInput` with the field that it is given.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from bilstm.sizes import reply_elements

from ..engine.sequences import Array
from ..errors import InvalidInput
from ..model.config import ModelConfig, Output

_MAX_RANK = 8  # of a shape that an error repeats


def check_sequences(count: int, limit: int, field: str) -> None:
    """Check how many sequences a request has: one at least."""
    if not 1 <= count <= limit:
        raise InvalidInput(field, f"must be 1 to {limit} sequences, got {count}")


def check_tokens(tokens: int, limit: int, field: str) -> None:
    """Check how many steps all sequences of a request have together."""
    if tokens > limit:
        raise InvalidInput(field, f"must have at most {limit} steps in all, got {tokens}")


def check_steps(shape: Sequence[int], field: str, config: ModelConfig) -> int:
    """Check the shape of a sequence or of a part of one: [T, input_size], or [T] of token ids.
    Returns T."""
    if config.embedding:
        if len(shape) != 1:
            raise InvalidInput(field, f"must be [T] of token ids, got {len(shape)} sizes")
    elif len(shape) != 2 or shape[1] != config.input_size:
        expected = f"[T, {config.input_size}] (input_size)"
        raise InvalidInput(field, f"must be {expected}, got {list(shape[:_MAX_RANK])}")
    return shape[0]


def check_length(steps: int, limit: int, field: str) -> None:
    """Check how many steps one sequence of a request has: one at least."""
    if not 1 <= steps <= limit:
        instead = "; a stream takes more" if steps else ""
        raise InvalidInput(field, f"must have 1 to {limit} steps, got {steps}{instead}")


def check_token_ids(steps: Array, field: str, config: ModelConfig) -> None:
    """Check the values of a sequence of token ids, which has one step at least. Floats may be
    anything."""
    if config.embedding and not (
        steps.min() >= 0 and steps.max() < config.embedding.num_embeddings
    ):
        raise InvalidInput(
            field,
            f"token ids must be 0 to {config.embedding.num_embeddings - 1}, "
            f"got {steps.min()} to {steps.max()}",
        )


def check_output(output: Output, field: str, config: ModelConfig) -> None:
    """Check that the model has the output."""
    if output is Output.LOGITS and config.head is None:
        raise InvalidInput(field, "the model has no head, so no logits")


def check_state_count(states: int, sequences: int, field: str) -> None:
    """Check that initial states come for all sequences of a request or for none."""
    if states not in (0, sequences):
        raise InvalidInput(field, f"must be empty or one per sequence ({sequences}), got {states}")


def check_hidden_shape(shape: Sequence[int], field: str, config: ModelConfig) -> None:
    """Check the shape of an initial hidden state: [L*K, P]."""
    _check_shape(shape, (config.state_rows, config.state_size), field)


def check_cell_shape(shape: Sequence[int], field: str, config: ModelConfig) -> None:
    """Check the shape of an initial cell state: [L*K, H]."""
    _check_shape(shape, (config.state_rows, config.hidden_size), field)


def _check_shape(shape: Sequence[int], expected: tuple[int, ...], field: str) -> None:
    got = list(shape[:_MAX_RANK])
    if got != list(expected):
        raise InvalidInput(field, f"must be {list(expected)}, got {got}")


def check_reply(
    outputs: Collection[Output],
    sequences: int,
    tokens: int,
    itemsize: int,
    limit: int,
    field: str,
    config: ModelConfig,
) -> int:
    """Check how large the reply would be, before it is computed.

    `tokens` are the steps of all sequences, `itemsize` the bytes of one element, `limit` those of
    the whole reply. Returns the bytes of its tensors.
    """
    elements = reply_elements(
        outputs,
        sequences=sequences,
        tokens=tokens,
        encoding_size=config.encoding_size,
        num_classes=config.head.num_classes if config.head else 0,
        state_elements=config.state_rows * (config.state_size + config.hidden_size),
    )
    size = elements * itemsize
    if size > limit:
        raise InvalidInput(
            field,
            f"the reply would be {size} bytes, more than the server's {limit}; send fewer "
            "sequences, ask for fewer outputs or a shorter data type, or use a stream",
        )
    return size
