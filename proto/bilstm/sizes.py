"""How large messages may be, and replies will be: the server refuses by it, and the client cuts by
it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

MAX_CHUNKS = 1_024  # of one message to a stream, whatever a call may bring
MAX_INPUTS = 16  # of one sequence, or of a chunk of it
MAX_MESSAGE_INPUTS = 4_096  # named ones, of all sequences or chunks of a message
MAX_NAME_BYTES = 64  # of an input or an output

Windows = Sequence[tuple[int, int]]  # `add` and `stride` of each


def output_rows(steps: int, windows: Windows) -> int:
    """Return how many rows an output has of so many steps: each of the `windows`, one after the
    other, makes `(rows + add) // stride + 1` of the rows before it, or none."""
    for add, stride in windows:
        steps = max((steps + add) // stride + 1, 0)
    return steps


def output_elements(steps: int, width: int, *, per_step: bool, windows: Windows = ()) -> int:
    """Return how many elements an output has of one sequence of so many steps: `width` in each row,
    and a row for each step or window, or a single one."""
    return width * (output_rows(steps, windows) if per_step else 1)


def reply_elements(
    outputs: Collection[str],
    *,
    sequences: int,
    tokens: int,
    encoding_size: int,
    num_classes: int,
    state_elements: int,
) -> int:
    """Return how many elements all tensors of a reply have.

    `outputs` are named as the fields of `Encoding`; `tokens` are the steps of all sequences;
    `encoding_size` is K*P; `state_elements` is L*K*(P + H), one sequence's hidden and cell state.
    """
    per_token = encoding_size if "states" in outputs else 0
    per_sequence = {
        "final": encoding_size,
        "mean": encoding_size,
        "max": encoding_size,
        "logits": num_classes,
        "state": state_elements,
    }
    return tokens * per_token + sequences * sum(per_sequence.get(o, 0) for o in set(outputs))
