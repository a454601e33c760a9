"""The channels of attention: causal, with rotary embedding, over a padded batch, without a cache."""

from __future__ import annotations

import torch
from torch.nn import functional

from seap_export.families import Attention, QueryScaling
from seap_export.families.sublayers import QK_NORMS
from seap_export.layers.batches import Batch
from seap_export.layers.sublayers.norm import rms_norm
from seap_export.layers.sublayers.operands import Operands
from seap_export.layers.sublayers.rotary import rotary_tables

__all__ = ["attention_channels"]


def attention_channels(operands: Operands, attention: Attention, stream: torch.Tensor, batch: Batch) -> torch.Tensor:
    """What the heads attend to, [tokens, heads * head_dim].

    Padding on the right needs no mask: with causal attention no real token ever sees it.
    """
    x = operands.read(attention.output, batch.padded(stream))

    query, key, value, *gates = (operands.linear(projection, x) for projection in attention.readers)
    if attention.qk_norm == "over_all_heads":
        query, key = _normed(operands, query, key)
    query, key, value = (part.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2) for part in (query, key, value))
    if attention.qk_norm == "before_rotation":
        query, key = _normed(operands, query, key)
    if attention.rope is not None:
        query, key = _rotated(query, key, batch.lengths, attention)
    if attention.qk_norm == "after_rotation":
        query, key = _normed(operands, query, key)
    if attention.query_scaling is not None:
        query = query * _query_factors(attention.query_scaling, query.shape[2]).to(query.device)
    attended = _attended(query, key, value, attention, operands.tensor("sinks")).transpose(1, 2).flatten(2)
    for gate in gates:
        attended = attended * gate.sigmoid()
    return batch.packed(attended)


def _normed(operands: Operands, query: torch.Tensor, key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    gains = [operands.tensor(name) for name in QK_NORMS]
    assert gains[0] is not None
    assert gains[1] is not None
    return rms_norm(query, gains[0], operands.epsilon), rms_norm(key, gains[1], operands.epsilon)


def _rotated(
    query: torch.Tensor, key: torch.Tensor, lengths: torch.Tensor, attention: Attention
) -> tuple[torch.Tensor, torch.Tensor]:
    rope = attention.rope
    assert rope is not None
    cos, sin = (table.to(query.device) for table in rotary_tables(rope, query.shape[2]))
    if rope.switches_at is not None:
        is_long = (lengths > rope.switches_at)[:, None, None, None]
        long_cos, long_sin = (table.to(query.device) for table in rotary_tables(rope, query.shape[2], long=True))
        cos, sin = torch.where(is_long, long_cos, cos), torch.where(is_long, long_sin, sin)
    if rope.interleaved:
        cos, sin = (table.repeat_interleave(2, -1) for table in (cos, sin))
    else:
        cos, sin = (torch.cat((table, table), -1) for table in (cos, sin))

    def rotate(x: torch.Tensor) -> torch.Tensor:
        turned, rest = x[..., : rope.dim], x[..., rope.dim :]
        turned = (turned * cos) + (_quarter_turn(turned, rope.interleaved) * sin)
        return torch.cat((turned, rest), -1) if rest.shape[-1] else turned

    return rotate(query), rotate(key)


def _quarter_turn(x: torch.Tensor, interleaved: bool) -> torch.Tensor:
    """Each pair (a, b) becomes (-b, a)."""
    if interleaved:
        return torch.stack((-x[..., 1::2], x[..., 0::2]), -1).flatten(-2)
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), -1)


def _query_factors(scaling: QueryScaling, length: int) -> torch.Tensor:
    """float32 [length, 1]."""
    blocks = torch.floor(torch.arange(length) / scaling.context)
    return (1 + scaling.beta * torch.log(1 + blocks)).unsqueeze(1)


def _attended(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention: Attention, sinks: torch.Tensor | None
) -> torch.Tensor:
    length, window = query.shape[2], attention.sliding_window
    mask = _window_mask(length, window, query.device) if window is not None and window < length else None
    if not attention.is_usual_softmax:
        return _unusual_softmax(query, key, value, mask, attention, sinks)
    if mask is not None:  # with a mask, torch has no fast kernel for grouped queries
        key, value = (_repeated(part, query.shape[1]) for part in (key, value))
    return functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        scale=attention.scale,
        is_causal=mask is None and length > 1,
        enable_gqa=key.shape[1] != query.shape[1],
    )


def _unusual_softmax(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    attention: Attention,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """With a cap on scores, or a sink: one more score of each head, whose share of the softmax is lost."""
    key, value = (_repeated(part, query.shape[1]) for part in (key, value))
    scores, cap = torch.matmul(query, key.transpose(2, 3)) * attention.scale, attention.softcap
    scores = scores if cap is None else torch.tanh(scores / cap) * cap
    visible = _window_mask(query.shape[2], query.shape[2], query.device) if mask is None else mask
    scores = scores.masked_fill(~visible, -torch.inf)
    if sinks is None:
        return torch.matmul(functional.softmax(scores, -1), value)
    scores = torch.cat((scores, sinks[:, None, None].expand(*scores.shape[:-1], 1)), -1)
    return torch.matmul(functional.softmax(scores, -1)[..., :-1], value)


def _repeated(x: torch.Tensor, heads: int) -> torch.Tensor:
    return x.repeat_interleave(heads // x.shape[1], 1)


def _window_mask(length: int, window: int, device: torch.device) -> torch.Tensor:
    """True where a query (row) sees a key (column): itself and the `window` - 1 before; [1, 1, length, length]."""
    positions = torch.arange(length, device=device)
    distance = positions.unsqueeze(1) - positions.unsqueeze(0)
    return ((distance >= 0) & (distance < window))[None, None]
