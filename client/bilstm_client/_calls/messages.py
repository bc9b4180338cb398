"""Messages as the client's own values. No I/O."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from bilstm import tensors
from bilstm.v1 import encoder_pb2 as pb

from ..models import InputInfo, Limits, Model, OutputInfo
from ..types import Array, Encoding, State, Timing
from .options import OUTPUT_NAMES, EncodeOptions
from .status import broken_reply, seconds_of

LabelNames = Mapping[str, tuple[str, ...]]  # of outputs whose ids have names

# What a server tells of its outputs that describes none: it has those of the first models alone.
_STATES_ALONE = {"states": OutputInfo("states", per_step=True)}


def timing(message: pb.Timing) -> Timing:
    """The message as a value, its durations in seconds."""
    return Timing(
        queue_seconds=seconds_of(message.queue),
        compute_seconds=seconds_of(message.compute),
        batch_sequences=message.batch_sequences,
        batch_tokens=message.batch_tokens,
    )


def encoding(
    message: pb.Encoding,
    timing: Timing,
    names: LabelNames,
    rows: Mapping[str, Array] | None = None,
    in_chunks: Collection[str] = (),
) -> Encoding:
    """The message's results, as the caller's own arrays. Outputs that have come in parts are given
    as `rows`, or went out in chunks."""
    rows = rows or {}
    arrays = {
        name: own(tensor)
        for name, tensor in tensors_of(message).items()
        if name not in rows and name not in in_chunks
    }
    arrays.update(rows)
    fields: dict[str, Any] = {
        name: arrays.pop(name) for name in OUTPUT_NAMES.values() if name in arrays
    }
    if message.HasField("state"):
        fields["state"] = State(own(message.state.hidden), own(message.state.cell))
    named = dict(sorted(arrays.items()))  # the server has them in any order
    return Encoding(timing, **fields, named=named, label_names=names, in_chunks=in_chunks)


def tensors_of(message: pb.Encoding) -> dict[str, pb.Tensor]:
    """The message's tensors by the names of the outputs that they are: all but the state's."""
    found: dict[str, Any] = {field.name: value for field, value in message.ListFields()}
    found.pop("state", None)
    for named in found.pop("named", ()):
        found[named.name] = named.tensor
    return found


def check_complete(result: Encoding, options: EncodeOptions, name: str) -> None:
    """Raises a `ServerError` if the result lacks an output that was requested."""
    for output in options.outputs:
        if output not in result:
            raise broken_reply(f"{name} has no {output}")


def own(tensor: pb.Tensor) -> Array:
    """The tensor's array, copied, so that it is the caller's own to write to."""
    return tensors.decode(tensor).copy()


# -- what the server says of its models ----------------------------------------------------------


def named_infos(messages: Iterable[pb.OutputInfo]) -> Mapping[str, OutputInfo]:
    """What a reply says of the outputs that were requested, by name."""
    return {message.name: output_info(message) for message in messages} or _STATES_ALONE


def label_names(infos: Mapping[str, OutputInfo]) -> LabelNames:
    """The names of the ids of those outputs whose ids have names."""
    return {name: info.labels for name, info in infos.items() if info.ids and info.labels}


def output_info(message: pb.OutputInfo) -> OutputInfo:
    """The message as a value."""
    return OutputInfo(
        name=message.name,
        per_step=message.per_step,
        width=message.width,
        ids=message.ids,
        labels=tuple(message.labels),
        windows=tuple((window.add, max(window.stride, 1)) for window in message.windows),
        sparse=message.sparse,
        unsliceable=message.unsliceable,
        not_live=message.not_live,
    )


def model(message: pb.Model) -> Model:
    """The message as a value, without outputs that only a newer client knows."""
    numbered = [OUTPUT_NAMES[number] for number in message.outputs if number in OUTPUT_NAMES]
    infos = tuple(map(output_info, message.output_infos)) or _first_infos(message, numbered)
    return Model(
        name=message.name,
        version=message.version,
        input_size=message.input_size,
        hidden_size=message.hidden_size,
        num_layers=message.num_layers,
        proj_size=message.proj_size,
        bidirectional=message.bidirectional,
        num_embeddings=message.num_embeddings,
        num_classes=message.num_classes,
        labels=tuple(message.labels),
        outputs=tuple(dict.fromkeys([*numbered, *(info.name for info in infos)])),
        limits=_limits(message.limits),
        inputs=tuple(map(_input_info, message.inputs)),
        output_infos=infos,
        unsliceable=message.unsliceable,
        not_live=message.not_live,
        min_steps=max(message.min_steps, 1),
    )


def _input_info(message: pb.InputInfo) -> InputInfo:
    padding_id = message.padding_id if message.HasField("padding_id") else None
    return InputInfo(message.name, message.width, message.ids, padding_id)


def _limits(message: pb.Limits) -> Limits:
    return Limits(
        max_message_bytes=message.max_message_bytes,
        max_sequence_tokens=message.max_sequence_tokens,
        max_request_sequences=message.max_request_sequences,
        max_request_tokens=message.max_request_tokens,
        max_stream_bytes=message.max_stream_bytes,
        max_stream_sequences=message.max_stream_sequences,
    )


def _first_infos(message: pb.Model, outputs: Collection[str]) -> tuple[OutputInfo, ...]:
    """The outputs of a server that does not describe them: those of the first models."""
    width = (2 if message.bidirectional else 1) * (message.proj_size or message.hidden_size)
    logits = OutputInfo("logits", False, message.num_classes, labels=tuple(message.labels))
    infos = [OutputInfo(name, name == "states", width) for name in outputs if name != "state"]
    return tuple(logits if info.name == "logits" else info for info in infos)
