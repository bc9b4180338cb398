"""What each layer of Keras becomes. A layer that is in no table is refused; none is executed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from . import activations, lstms, norms, windows
from .call import Call

_Converter = Callable[[Call], str | Sequence[str]]


def convert(call: Call) -> Sequence[str]:
    """Add a layer to the draft; returns the values of its results."""
    converter = _CONVERTERS.get(call.kind)
    if converter is None:
        raise ValueError(
            "has no type here; serve the model up to the layer before it, and leave the rest to "
            "the client: keras.Model(model.inputs, model.get_layer(…).output).save('model.keras')"
        )
    results = converter(call)
    return (results,) if isinstance(results, str) else results


def _unchanged(call: Call) -> str:
    return call.read()


def _masking(call: Call) -> str:
    call.draft.note_masking(call.read(), call.settings.number("mask_value", 0))
    return call.read()


def _embedding(call: Call) -> str:
    """`embeddings` [ids, width]"""
    (weight,) = call.arrays(1)
    ids, width = call.settings.size("input_dim"), call.settings.size("output_dim")
    call.draft.set_ids(call.read(), ids)
    if call.settings.flag("mask_zero"):
        call.draft.set_padding(call.read(), 0)
    return call.add("embedding", call.read(), {"weight": weight}, width=width)


def _dense(call: Call) -> str:
    """`kernel` [D, units], `bias` [units]"""
    width, bias = call.settings.size("units"), call.settings.flag("use_bias", True)
    kernel, *biases = call.arrays(1 + bias)
    tensors = {"weight": kernel.T} | ({"bias": biases[0]} if bias else {})
    y = call.add("linear", call.read(), tensors, width=width, bias=bias)
    return activations.activate(call, y)


def _time_distributed(call: Call) -> Sequence[str]:
    entry = call.settings.settings("layer")
    kind = entry.word("class_name")
    if kind not in _OF_ROWS or not call.value().per_step:
        raise ValueError(f"has a {kind} inside, and only {', '.join(_OF_ROWS)} are served there")
    settings = entry.settings("config")
    return convert(Call(call.name, kind, settings, call.reads, (), call.read_weights, call.draft))


def _concatenate(call: Call) -> str:
    call.expect_columns()
    return call.add("concat", call.reads)


def _average(call: Call) -> str:
    total = call.add("add", call.reads)
    factors = np.full(call.draft.value(total).width, 1 / len(call.reads))
    return call.add("scale", total, {"weight": factors}, bias=False)


def _elementwise(type: str) -> _Converter:
    def convert_elementwise(call: Call) -> str:
        if call.others:
            raise ValueError("has a number among what it reads, which is not served")
        return call.add(type, call.reads)

    return convert_elementwise


def _pooling(type: str) -> _Converter:
    """A layer, or an operation over the axis of steps."""

    def convert_pooling(call: Call) -> str:
        call.expect("data_format", "channels_last")
        call.refuse("keepdims")
        if call.settings.size("axis", 1) not in (1, -2):
            raise ValueError("is of another axis than that of steps, 1, which is not served")
        return call.add(type, call.read())

    return convert_pooling


def _function(name: str) -> _Converter:
    def convert_function(call: Call) -> str:
        return call.add("activation", call.read(), function=name)

    return convert_function


def _get_item(call: Call) -> str:
    """`x[:, -1]` and `x[:, 0]`"""
    match call.others:
        case [[batch, 0 | -1 as step, *columns]] if all(map(_is_whole, (batch, *columns))):
            return call.add("last" if step else "first", call.read())
    raise ValueError("takes another part than x[:, -1] or x[:, 0], which is not served")


def _is_whole(index: object) -> bool:
    """Whether an index is `:`."""
    match index:
        case {"class_name": "__slice__", "config": {"start": None, "stop": None, "step": None}}:
            return True
    return False


# Functions of each row by itself, which a TimeDistributed may have inside.
_OF_ROWS: Mapping[str, _Converter] = {
    "Dense": _dense,
    "Activation": activations.activation,
    "ReLU": activations.relu,
    "LeakyReLU": activations.leaky_relu,
    "ELU": activations.elu,
    "Softmax": activations.softmax,
    "LayerNormalization": norms.layer_normalization,
    "BatchNormalization": norms.batch_normalization,
    "UnitNormalization": norms.unit_normalization,
    "Rescaling": norms.rescaling,
    "Dropout": _unchanged,
    "GaussianDropout": _unchanged,
    "GaussianNoise": _unchanged,
    "AlphaDropout": _unchanged,
    "ActivityRegularization": _unchanged,
}
_OPERATIONS: Mapping[str, _Converter] = {
    "GetItem": _get_item,
    "Max": _pooling("max"),
    "Mean": _pooling("mean"),
    "Sum": _pooling("sum"),
    "Relu": _function("relu"),
    "Sigmoid": _function("sigmoid"),
    "Tanh": _function("tanh"),
}
_CONVERTERS: Mapping[str, _Converter] = {
    **_OF_ROWS,
    **_OPERATIONS,
    "Embedding": _embedding,
    "LSTM": lstms.lstm,
    "Bidirectional": lstms.bidirectional,
    "TimeDistributed": _time_distributed,
    "SpatialDropout1D": _unchanged,
    "Masking": _masking,
    "Normalization": norms.normalization,
    "Conv1D": windows.conv1d,
    "DepthwiseConv1D": windows.depthwise_conv1d,
    "SeparableConv1D": windows.separable_conv1d,
    "MaxPooling1D": windows.max_pooling1d,
    "AveragePooling1D": windows.average_pooling1d,
    "GlobalMaxPooling1D": _pooling("max"),
    "GlobalAveragePooling1D": _pooling("mean"),
    "Concatenate": _concatenate,
    "Add": _elementwise("add"),
    "Subtract": _elementwise("subtract"),
    "Multiply": _elementwise("multiply"),
    "Average": _average,
}
