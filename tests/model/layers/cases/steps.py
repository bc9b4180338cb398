"""Functions of whole sequences, and of windows of steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .case import case, channels

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
