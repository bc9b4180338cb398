"""What a server says of its models: what each takes, what it gives, and the limits of calls."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What the server takes of one request, and of one stream. A token is a step of a sequence."""

    max_message_bytes: int
    """The size of a request, and of its reply."""
    max_sequence_tokens: int
    """The steps of one sequence of a request; a stream takes longer ones."""
    max_request_sequences: int
    """The sequences of a request."""
    max_request_tokens: int
    """The steps of all sequences of a request."""
    max_stream_bytes: int
    """What a stream may have in flight, results included."""
    max_stream_sequences: int
    """The sequences that a stream may have in flight."""


@dataclass(frozen=True, slots=True)
class InputInfo:
    """One input of a model: what a sequence has of it at each step."""

    name: str
    width: int = 0
    """The numbers of a step: the input is [T, width]. 0 if it is ids, [T]."""
    ids: int = 0
    """How many ids there are: they are 0 to `ids` - 1. 0 if it is numbers."""
    padding_id: int | None = None
    """An id that no sequence may have, as it stood for padding in training."""


@dataclass(frozen=True, slots=True)
class OutputInfo:
    """One output of a model: its shape, and what its numbers mean."""

    name: str
    per_step: bool
    """Whether it has a row for each step, or window of steps; else there is one for a sequence."""
    width: int = 0
    """The numbers of a row: [T, width], or [width]. 0 if it is ids: [T], or []."""
    ids: int = 0
    """How many ids there are, if it is ids: 0 to `ids` - 1. 0 if it is floats."""
    labels: tuple[str, ...] = ()
    """The names of its ids, or of its columns; empty if they have none."""
    windows: tuple[tuple[int, int], ...] = ()
    """How convolutions and poolings change the number of rows: `add` and `stride` of each, one
    after the other, make `(rows + add) // stride + 1` of the rows. Empty: a row for each step."""
    sparse: bool = False
    """Whether some rows are left out, so that it has fewer than `rows` says."""
    unsliceable: str = ""
    """Why sequences can't be longer for it than what the server computes at once; empty if they
    can."""
    not_live: str = ""
    """Why live streams don't have it; empty if they have."""

    def rows(self, steps: int) -> int:
        """How many rows it has of a sequence of so many steps, if it is `per_step`."""
        for add, stride in self.windows:
            steps = max((steps + add) // stride + 1, 0)
        return steps


@dataclass(frozen=True, slots=True)
class Model:
    """A model as the server describes it, its sizes named as torch.nn.LSTM names them.

    Models differ in what they are made of: where sizes do not describe one alone, they are those of
    its LSTM, the one that its states come from or the last, and 0 where it has none.
    """

    name: str
    version: str
    input_size: int
    """The numbers of one step, [T, input_size]. A model of token ids embeds each in so many. 0 if
    it has several such inputs: see `inputs`."""
    hidden_size: int
    """The width of the cell state of one direction."""
    num_layers: int
    proj_size: int
    """The width of one direction's output, if it is projected; else 0, and it is `hidden_size`."""
    bidirectional: bool
    num_embeddings: int
    """The number of token ids that the model knows, if they are its only input; else 0."""
    num_classes: int
    """The number of scores in `logits`, or of labels; 0 if the model has neither."""
    labels: tuple[str, ...]
    """The names of the classes, in the order of `logits`; empty if they have none."""
    outputs: tuple[str, ...]
    """The outputs that may be requested of it."""
    limits: Limits
    inputs: tuple[InputInfo, ...] = ()
    """What it takes, in its order. With more than one, a sequence is a dict of arrays by name."""
    output_infos: tuple[OutputInfo, ...] = ()
    """All of its outputs but `state`, each with its shape."""
    unsliceable: str = ""
    """Why no output can be of sequences that are longer than what the server computes at once;
    empty if some can."""
    not_live: str = ""
    """Why live streams have none of its outputs; empty if they have some."""
    min_steps: int = 1
    """The fewest steps that a sequence may have."""
