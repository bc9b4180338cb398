"""One case for each form of each layer type but the LSTM, and torch's own computation of it.

A judge takes the layer's state_dict and the inputs of one sequence: [T, width] of those that have
rows for steps, [1, width] of others. It returns what the layer gives of that sequence, all parts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

Results = Tensor | tuple[Tensor, ...]
Judge = Callable[..., Results]


@dataclass(frozen=True)
class Case:
    """A layer's entry of `config.json`, and what it reads."""

    layer: dict[str, Any]
    judge: Judge
    widths: tuple[int, ...] = (6,)
    per_sequence: tuple[int, ...] = ()  # which inputs have one row for each sequence
    parts: tuple[str, ...] = ("",)
    min_steps: int = 1


CASES: dict[str, Case] = {}


def case(
    name: str, judge: Judge, *widths: int, parts: tuple[str, ...] = ("",), **layer: Any
) -> None:
    options = {key: layer.pop(key) for key in ("per_sequence", "min_steps") if key in layer}
    if layer["type"] != name.split(",")[0]:
        name = f"{layer['type']}, {name}"
    CASES[name] = Case(layer, judge, widths or (6,), parts=parts, **options)


def module(make: Callable[[], nn.Module]) -> Judge:
    """Torch's own module, with the layer's state_dict."""

    def judge(state: dict[str, Tensor], x: Tensor) -> Tensor:
        own = make().to(x.dtype).eval()
        assert own.state_dict().keys() - {"num_batches_tracked"} == state.keys()
        y: Tensor = functional_call(own, state, x)
        return y

    return judge


def channels(make: Callable[[], nn.Module]) -> Judge:
    """As `module`, of one that takes [B, C, T]."""
    judge = module(make)

    def transposed(state: dict[str, Tensor], x: Tensor) -> Results:
        y = judge(state, x.t().unsqueeze(0))
        assert isinstance(y, Tensor)
        return y.squeeze(0).t()

    return transposed


# -- number by number ----------------------------------------------------------------------------

FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], dict[str, Any]]] = {
    "abs": (torch.abs, {}),
    "celu": (lambda x: F.celu(x, 1.5), {"alpha": 1.5}),
    "clamp": (lambda x: x.clamp(-0.3, 0.9), {"min": -0.3, "max": 0.9}),
    "cos": (torch.cos, {}),
    "elu": (F.elu, {}),
    "erf": (torch.erf, {}),
    "exp": (torch.exp, {}),
    "expm1": (torch.expm1, {}),
    "gelu": (F.gelu, {}),
    "gelu_tanh": (lambda x: F.gelu(x, approximate="tanh"), {}),
    "hardshrink": (F.hardshrink, {}),
    "hardsigmoid": (lambda x: F.relu6(x + 3) / 6, {}),  # torch's own has a rounded gradient
    "hardswish": (F.hardswish, {}),
    "hardtanh": (F.hardtanh, {}),
    "leaky_relu": (lambda x: F.leaky_relu(x, 0.2), {"negative_slope": 0.2}),
    "log": (torch.log, {}),
    "log1p": (torch.log1p, {}),
    "logsigmoid": (F.logsigmoid, {}),
    "mish": (F.mish, {}),
    "neg": (torch.neg, {}),
    "power": (lambda x: x**3, {"exponent": 3}),
    "reciprocal": (torch.reciprocal, {}),
    "relu": (F.relu, {}),
    "relu6": (F.relu6, {}),
    "rsqrt": (torch.rsqrt, {}),
    "selu": (F.selu, {}),
    "sigmoid": (torch.sigmoid, {}),
    "sign": (torch.sign, {}),
    "silu": (F.silu, {}),
    "sin": (torch.sin, {}),
    "softplus": (F.softplus, {}),
    "softshrink": (F.softshrink, {}),
    "softsign": (F.softsign, {}),
    "sqrt": (torch.sqrt, {}),
    "square": (torch.square, {}),
    "tanh": (torch.tanh, {}),
    "tanhshrink": (F.tanhshrink, {}),
    "thresholded_relu": (lambda x: F.threshold(x, 0.7, 0.0), {"threshold": 0.7}),
}

for _name, (_function, _parameters) in FUNCTIONS.items():
    case(
        _name,
        lambda state, x, function=_function: function(x),
        type="activation",
        function=_name,
        **_parameters,
    )
case(
    "softplus with beta and threshold",
    lambda state, x: F.softplus(x, 3.0, 2.0),
    type="activation",
    function="softplus",
    beta=3.0,
    threshold=2.0,
)
for _exponent in (0.0, 0.5, -2.0, 1.7, 9.0, 12.0, -1.5):
    case(
        f"power {_exponent}",
        lambda state, x, exponent=_exponent: x**exponent,
        type="activation",
        function="power",
        exponent=_exponent,
    )
case("prelu", module(nn.PReLU), type="prelu")
case("by column", module(lambda: nn.PReLU(6)), type="prelu", shared=False)
case("scale", lambda s, x: x * s["weight"] + s["bias"], type="scale")
case("factor", lambda s, x: x * s["weight"], type="scale", bias=False)
case("shift", lambda s, x: x + s["bias"], type="scale", weight=False)

# -- rows ----------------------------------------------------------------------------------------

case("linear", module(lambda: nn.Linear(6, 5)), type="linear", width=5)
case(
    "groups",
    lambda s, x: F.linear(x.view(len(x), 3, 2), s["weight"], s["bias"]).flatten(1),
    type="linear",
    width=5,
    groups=3,
)
case("softmax", lambda s, x: x.softmax(1), 37, type="softmax")
case("log", lambda s, x: x.log_softmax(1), 37, type="softmax", log=True)
case(
    "groups",
    lambda s, x: x.view(len(x), 3, -1).softmax(2).flatten(1),
    type="softmax",
    groups=3,
)
case("layer_norm", module(lambda: nn.LayerNorm(37)), 37, type="layer_norm")
case(
    "no bias",
    module(lambda: nn.LayerNorm(6, eps=0.1, bias=False)),
    type="layer_norm",
    eps=0.1,
    bias=False,
)
case(
    "groups",
    lambda s, x: F.layer_norm(x.view(-1, 2, 3), (3,), s["weight"], s["bias"]).flatten(1),
    type="layer_norm",
    groups=2,
)
case("group_norm", module(lambda: nn.GroupNorm(2, 6)), type="group_norm", groups=2)
case(
    "no parameters",
    module(lambda: nn.GroupNorm(3, 6, affine=False)),
    type="group_norm",
    groups=3,
    weight=False,
    bias=False,
)
case("rms_norm", module(lambda: nn.RMSNorm(37, eps=1e-6)), 37, type="rms_norm")
case("batch_norm", module(lambda: nn.BatchNorm1d(6)), type="batch_norm")
case(
    "no parameters",
    module(lambda: nn.BatchNorm1d(6, eps=0.1, affine=False)),
    type="batch_norm",
    eps=0.1,
    weight=False,
    bias=False,
)
case("normalize", lambda s, x: F.normalize(x), 37, type="normalize")
case("eps", lambda s, x: F.normalize(x, eps=3.0), type="normalize", eps=3.0)
case("no eps", lambda s, x: x / x.norm(dim=1, keepdim=True), type="normalize", eps=0)
case(
    "groups",
    lambda s, x: F.normalize(x.view(len(x), 2, 3), dim=2).flatten(1),
    type="normalize",
    groups=2,
)
case("columns", lambda s, x: x[:, 1:4], type="columns", start=1, stop=4)
case(
    "permute",
    lambda s, x: x.view(-1, 2, 3, 4).permute(0, 3, 1, 2).flatten(1),
    24,
    type="permute",
    shape=[2, 3, 4],
    order=[2, 0, 1],
)
for _word, _reduce in {
    "sum": torch.sum,
    "mean": torch.mean,
    "max": torch.amax,
    "min": torch.amin,
    "prod": torch.prod,
    "logsumexp": torch.logsumexp,
}.items():
    case(
        _word,
        lambda s, x, reduce=_reduce: reduce(x.view(-1, 2, 11, 3), dim=2).flatten(1),
        66,
        type="reduce",
        shape=[2, 11, 3],
        axis=1,
        function=_word,
    )
case("sum_directions", lambda s, x: x[:, :3] + x[:, 3:], type="sum_directions")
case("argmax", lambda s, x: x.argmax(1), 37, type="argmax")

# -- several values ------------------------------------------------------------------------------

case("concat", lambda s, x, y: torch.cat([x, y], 1), 3, 4, type="concat")
case(
    "of a sequence",
    lambda s, x, y: torch.cat([x, y.expand(len(x), -1)], 1),
    3,
    4,
    type="concat",
    per_sequence=(1,),
)
case("add", lambda s, x, y: x + y, 6, 6, type="add")
case("multiply", lambda s, x, y: x * y, 6, 6, type="multiply")
case("one column", lambda s, x, y: x * y, 6, 1, type="multiply")
case("subtract", lambda s, x, y: x - y, 6, 6, type="subtract")
case("from one column", lambda s, x, y: x - y, 1, 6, type="subtract")
case("divide", lambda s, x, y: x / y, 6, 6, type="divide")
case("by one column", lambda s, x, y: x / y, 6, 1, type="divide")
case("dot", lambda s, x, q: x @ q.t(), 37, 37, type="dot", per_sequence=(1,))
case(
    "heads",
    lambda s, x, q: 0.5 * (x * q).view(len(x), 3, 2).sum(2),
    6,
    6,
    type="dot",
    heads=3,
    scale=0.5,
)

case(
    "splice",
    lambda s, x: torch.cat([F.pad(x, (0, 0, 1, 0))[:-1], x, F.pad(x, (0, 0, 0, 1))[1:]], 1),
    type="splice",
    kernel=3,
    padding=1,
)
case("one of three steps", lambda s, x: x[::3], type="splice", kernel=1, stride=3)

# -- over the steps ------------------------------------------------------------------------------

case("last", lambda s, x: x[-1], type="last")
case("first", lambda s, x: x[0], type="first")
case("final", lambda s, x: torch.cat([x[-1, :3], x[0, 3:]]), type="final")
case("sum", lambda s, x: x.sum(0), type="sum")
case("mean", lambda s, x: x.mean(0), type="mean")
case("max", lambda s, x: x.amax(0), type="max")
case("min", lambda s, x: x.amin(0), type="min")
case("variance", lambda s, x: x.var(0), type="variance", min_steps=2)
case("no correction", lambda s, x: x.var(0, correction=0), type="variance", correction=0)
case("std", lambda s, x: x.std(0), type="std", min_steps=2)
case("no correction", lambda s, x: x.std(0, correction=0), type="std", correction=0)
case("logsumexp", lambda s, x: x.logsumexp(0), type="logsumexp")
case("reverse_steps", lambda s, x: x.flip(0), type="reverse_steps")
case("softmax_steps", lambda s, x: x.softmax(0), type="softmax_steps")
case("log", lambda s, x: x.log_softmax(0), type="softmax_steps", log=True)
case(
    "weighted_sum",
    lambda s, x, w: (w.t() @ x).flatten(),
    6,
    3,
    type="weighted_sum",
)
case(
    "split",
    lambda s, x, w: torch.einsum("th,thd->hd", w, x.view(-1, 3, 2)).flatten(),
    6,
    3,
    type="weighted_sum",
    split=True,
)
case(
    "attention",
    lambda s, x, scores: ((scores.softmax(0).t() @ x).flatten(), scores.softmax(0)),
    6,
    1,
    type="attention",
    parts=("", "weights"),
)
case(
    "heads",
    lambda s, x, scores: ((scores.softmax(0).t() @ x).flatten(), scores.softmax(0)),
    6,
    3,
    type="attention",
    parts=("", "weights"),
)
case(
    "split",
    lambda s, x, scores: (
        torch.einsum("th,thd->hd", scores.softmax(0), x.view(-1, 3, 2)).flatten(),
        scores.softmax(0),
    ),
    6,
    3,
    type="attention",
    split=True,
    parts=("", "weights"),
)

# -- windows of steps ----------------------------------------------------------------------------


def convolution(name: str, *, width: int = 4, min_steps: int = 1, **options: Any) -> None:
    judge = channels(lambda: nn.Conv1d(6, width, options["kernel_size"], **fields))
    fields = {key: value for key, value in options.items() if key != "kernel_size"}
    case(name, judge, type="conv1d", width=width, min_steps=min_steps, **window(options))


def window(options: dict[str, Any]) -> dict[str, Any]:
    """Torch's arguments, as a config has them."""
    return {("kernel" if key == "kernel_size" else key): value for key, value in options.items()}


convolution("conv1d", kernel_size=3, padding=1)
convolution("same", kernel_size=4, padding="same")
convolution("one step", kernel_size=1, bias=False)
convolution("edges lost", kernel_size=3, min_steps=3)
convolution("stride", kernel_size=3, stride=2, padding=1)
convolution("dilation", kernel_size=3, dilation=2, padding=2)
convolution("groups", kernel_size=3, groups=2, padding=1)
convolution("depthwise", kernel_size=5, groups=6, padding="same", width=6)
convolution("depthwise, wider", kernel_size=3, groups=6, padding=1, width=12, bias=False)
case(
    "causal",
    lambda s, x: F.conv1d(F.pad(x.t(), (2, 0)), s["weight"], s["bias"]).t(),
    type="conv1d",
    width=4,
    kernel=3,
    padding=[2, 0],
)
for _type, _pool, _options in (
    ("max_pool1d", nn.MaxPool1d, {"kernel_size": 3, "stride": 2, "padding": 1}),
    ("max_pool1d", nn.MaxPool1d, {"kernel_size": 3, "stride": 1, "dilation": 2}),
    ("avg_pool1d", nn.AvgPool1d, {"kernel_size": 4, "stride": 3, "padding": 2}),
    (
        "avg_pool1d",
        nn.AvgPool1d,
        {"kernel_size": 4, "stride": 1, "padding": 2, "count_include_pad": False},
    ),
    ("avg_pool1d", nn.AvgPool1d, {"kernel_size": 2, "stride": 2, "count_include_pad": False}),
):
    case(
        ", ".join(map(str, _options.values())),
        channels(lambda pool=_pool, options=_options: pool(**options)),  # type: ignore[misc]
        type=_type,
        min_steps=1 if "padding" in _options else 5,
        **window(_options),
    )
