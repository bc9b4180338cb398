"""Functions of each row, and of several values' rows."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from .case import case, module

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
