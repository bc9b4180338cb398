"""How large a reply will be: the server refuses by it, and the client cuts batches by it."""

from __future__ import annotations

from collections.abc import Collection

from bilstm.v1 import encoder_pb2 as pb


def reply_elements(
    outputs: Collection[int],
    *,
    sequences: int,
    tokens: int,
    encoding_size: int,
    num_classes: int,
    state_elements: int,
) -> int:
    """Elements in all tensors of a reply.

    `outputs` are wire numbers; `tokens` the steps of all sequences; `encoding_size` K*P;
    `state_elements` L*K*(P + H), one sequence's hidden and cell state.
    """
    per_token = encoding_size if pb.OUTPUT_STATES in outputs else 0
    per_sequence: dict[int, int] = {
        pb.OUTPUT_FINAL: encoding_size,
        pb.OUTPUT_MEAN: encoding_size,
        pb.OUTPUT_MAX: encoding_size,
        pb.OUTPUT_LOGITS: num_classes,
        pb.OUTPUT_STATE: state_elements,
    }
    return tokens * per_token + sequences * sum(per_sequence.get(o, 0) for o in set(outputs))
