"""Models as messages: what they take and give, and what a request must keep.

A description is made once for as long as its model is served: with the names of many classes it is
large, and every reply has some of it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from weakref import WeakKeyDictionary

from bilstm.v1 import encoder_pb2 as pb

from ...model.config import InputConfig, ModelConfig
from ...model.layers.lstm import LstmConfig
from ...serving.registry import ServedModel
from ...settings import RequestLimits
from .requests import OUTPUTS

_MESSAGES: WeakKeyDictionary[ServedModel, pb.Model] = WeakKeyDictionary()


def model_message(model: ServedModel, limits: RequestLimits) -> pb.Model:
    """Return a model's description, not to be written to, with the limits that callers must keep:
    those of the server, which has no others."""
    message = _MESSAGES.get(model)
    if message is None:
        message = _MESSAGES[model] = _model_message(model, limits)
    return message


def _model_message(model: ServedModel, limits: RequestLimits) -> pb.Model:
    config = model.config
    lstm = _lstm_of_states(config)
    only = next(iter(config.inputs.values())) if len(config.inputs) == 1 else None
    classes = config.output_values.get("logits") or config.output_values.get("labels")
    names = config.labels.get("logits") or config.labels.get("labels") or ()
    return pb.Model(
        name=model.name,
        version=model.version,
        input_size=_input_size(config),
        hidden_size=lstm.hidden_size,
        num_layers=lstm.num_layers,
        proj_size=lstm.proj_size,
        bidirectional=lstm.bidirectional,
        num_embeddings=(only.ids or 0) if only else 0,
        num_classes=(classes.ids or classes.width) if classes else 0,
        labels=names,
        outputs=[
            pb.Output.ValueType(number)
            for number, name in OUTPUTS.items()
            if name in config.output_names
        ],
        limits=pb.Limits(
            max_message_bytes=limits.max_message_bytes,
            max_sequence_tokens=limits.max_sequence_tokens,
            max_request_sequences=limits.max_request_sequences,
            max_request_tokens=limits.max_request_tokens,
            max_stream_bytes=limits.max_stream_bytes,
            max_stream_sequences=limits.max_stream_sequences,
        ),
        inputs=[_input_info(name, own) for name, own in config.inputs.items()],
        output_infos=[_whole_info(name, config) for name in config.outputs],
        unsliceable=_common_reason([config.unsliceable(name) for name in config.output_names]),
        not_live=_common_reason([config.not_live(name) for name in config.output_names]),
        min_steps=config.min_steps,
    )


def _lstm_of_states(config: ModelConfig) -> LstmConfig:
    """The LSTM that the states come from, or the last one."""
    source = config.outputs.get("states")
    return next((lstm for lstm in config.lstms if lstm.name == source), config.lstms[-1])


def _input_size(config: ModelConfig) -> int:
    """The floats of a step, or where the only input is ids, those that each is embedded in."""
    only, *others = config.inputs.items()
    if others:
        return 0
    name, own = only
    if own.width:
        return own.width
    readers = [layer for layer in config.layers if name in layer.inputs]
    return config.values[readers[0].name].width if len(readers) == 1 else 0


def _input_info(name: str, own: InputConfig) -> pb.InputInfo:
    return pb.InputInfo(
        name=name, width=own.width or 0, ids=own.ids or 0, padding_id=own.padding_id
    )


_INFOS: WeakKeyDictionary[ServedModel, dict[str, bytes]] = WeakKeyDictionary()


def requested_infos(model: ServedModel, outputs: Collection[str]) -> list[bytes]:
    """Return what a reply says of the outputs that were asked for, in the model's order: an
    `OutputInfo` each, as bytes."""
    infos = _INFOS.get(model)
    if infos is None:
        infos = _INFOS[model] = _reply_infos(model.config)
    return [info for name, info in infos.items() if name in outputs]


def _reply_infos(config: ModelConfig) -> dict[str, bytes]:
    return {
        name: _output_info(
            name, config, config.labels.get(name, ()) if value.ids else ()
        ).SerializeToString()
        for name, value in config.output_values.items()
    }


def _whole_info(name: str, config: ModelConfig) -> pb.OutputInfo:
    """All that there is to say of an output, also what no reply has to say again."""
    info = _output_info(name, config, config.labels.get(name, ()))
    info.unsliceable = config.unsliceable(name) or ""
    info.not_live = config.not_live(name) or ""
    return info


def _output_info(name: str, config: ModelConfig, labels: Sequence[str]) -> pb.OutputInfo:
    value = config.output_values[name]
    return pb.OutputInfo(
        name=name,
        per_step=value.per_step,
        width=0 if value.ids else value.width,
        ids=value.ids,
        labels=labels,
        windows=[pb.Window(add=add, stride=stride) for add, stride in value.grid.thinnings],
        sparse=value.sparse,
    )


def _common_reason(reasons: list[str | None]) -> str:
    """The first reason, if there is one for every output."""
    return "" if None in reasons else str(reasons[0])
