"""Functions of torch's that are recorded as what they are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Rewrite = Callable[..., Any]


def rewrite_of(func: Any) -> Rewrite | None:
    """What to call in place of a function, if it is one of those here."""
    return _REWRITTEN.get(getattr(func, "__name__", ""))


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(q kᵀ scale + mask) v; what is forbidden has a score of minus infinity."""
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return torch.softmax(scores, -1) @ value


def _bilinear(one: Tensor, two: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """y_o = x1 W_o x2ᵀ + b_o"""
    results, width, _ = weight.shape
    product = one @ weight.permute(1, 0, 2).reshape(width, -1)
    y: Tensor = (product.reshape(*one.shape[:-1], results, -1) * two.unsqueeze(-2)).sum(-1)
    return y if bias is None else y + bias


def _multi_head_attention(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    """With the weights of its heads, for which it takes no kernel that does all at once."""
    given = kwargs | {"need_weights": True}
    y, weights = F.multi_head_attention_forward(*args, **given)
    return y, weights if kwargs.get("need_weights", True) else None


_REWRITTEN: dict[str, Rewrite] = {
    "scaled_dot_product_attention": _attention,
    "bilinear": _bilinear,
    "multi_head_attention_forward": _multi_head_attention,
}
