"""How large messages may be, and replies will be: the server refuses by it, and the client cuts by
it."""

from __future__ import annotations

from collections.abc import Collection

MAX_CHUNKS = 1_024  # of one message to a stream, whatever a call may bring


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
