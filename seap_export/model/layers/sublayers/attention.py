"""The channels of attention: causal, with rotary embedding, over a padded batch, without a cache."""

from __future__ import annotations

import torch
from torch.nn import functional

from seap_export.model.families import Attention, QueryScaling, RopeSpec
from seap_export.model.families.sublayers import V_NORM
from seap_export.model.layers.batches import Batch
from seap_export.model.layers.sublayers.norm import rms_norm
from seap_export.model.layers.sublayers.operands import Operands, stream_of
from seap_export.model.layers.sublayers.rotary import rotary_tables


def attention_channels(operands: Operands, attention: Attention, stream: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The outputs of all heads, [tokens, heads * head_dim].

    Padding on the right needs no mask: with causal attention no real token ever sees it.
    """
    x = operands.read(attention.output, batch.padded(stream_of(stream, operands.hidden_size)))
    query = _prepared(operands, attention, operands.linear("q_proj", x), "q_norm", batch)
    if attention.cache_of is None:
        key, value = _keys_and_values(operands, attention, x, batch)
    else:
        shared = batch.padded(stream[:, operands.cached_of[attention.cache_of]])
        key, value = shared.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2).chunk(2, 1)
    if attention.query_scaling is not None:
        query = query * _query_factors(attention.query_scaling, query.shape[2]).to(query.device)
    for what, heads in (("queries", query), ("keys", key), ("values", value)):
        operands.see(what, lambda heads=heads: heads)  # type: ignore[misc]
    operands.see("scores", lambda: _scores(query, key, attention))
    attended = _attended(query, key, value, attention, operands.tensor("sinks")).transpose(1, 2).flatten(2)
    if attention.gate is not None:
        gates = operands.linear("g_proj", x).sigmoid()
        gates = gates.repeat_interleave(attention.head_dim, -1) if attention.gate == "heads" else gates
        attended = attended * gates
    return batch.packed(attended)


def lent_keys_and_values(operands: Operands, attention: Attention, stream: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The keys and then the values of all heads, as later layers attend to them, [tokens, 2 * KV heads * head_dim]."""
    x = operands.read(attention.output, batch.padded(stream_of(stream, operands.hidden_size)))
    both = torch.cat(_keys_and_values(operands, attention, x, batch), 1)
    return batch.packed(both.transpose(1, 2).flatten(2))


def _keys_and_values(
    operands: Operands, attention: Attention, x: torch.Tensor, batch: Batch
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values, [batch, KV heads, length, head_dim] each, given the input of their projections."""
    key = operands.linear("k_proj", x)
    value = key if attention.values_are_keys else operands.linear("v_proj", x)
    value = value.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
    if (gain := operands.tensor(V_NORM)) is not None:
        value = rms_norm(value, gain, operands.epsilon)
    return _prepared(operands, attention, key, "k_norm", batch), value


def _prepared(operands: Operands, attention: Attention, x: torch.Tensor, norm: str, batch: Batch) -> torch.Tensor:
    """Queries or keys, normalised and rotated, [batch, heads, length, head_dim], of [batch, length, channels]."""

    def normed(when: str, x: torch.Tensor) -> torch.Tensor:
        gain = operands.tensor(norm) if attention.qk_norm == when else None
        return x if gain is None else rms_norm(x, gain, operands.epsilon)

    heads = normed("over_all_heads", x).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
    heads = normed("before_rotation", heads)
    if attention.rope is not None:
        heads = _rotated(heads, batch.lengths, attention.rope)
    return normed("after_rotation", heads)


def _rotated(x: torch.Tensor, lengths: torch.Tensor, rope: RopeSpec) -> torch.Tensor:
    cos, sin = (table.to(x.device) for table in rotary_tables(rope, x.shape[2]))
    if rope.switches_at is not None:
        is_long = (lengths > rope.switches_at)[:, None, None, None]
        long_cos, long_sin = (table.to(x.device) for table in rotary_tables(rope, x.shape[2], long=True))
        cos, sin = torch.where(is_long, long_cos, cos), torch.where(is_long, long_sin, sin)
    if rope.interleaved:
        cos, sin = (table.repeat_interleave(2, -1) for table in (cos, sin))
    else:
        cos, sin = (torch.cat((table, table), -1) for table in (cos, sin))

    turned, rest = x[..., : rope.dim], x[..., rope.dim :]
    turned = (turned * cos) + (_quarter_turn(turned, rope.interleaved) * sin)
    return torch.cat((turned, rest), -1) if rest.shape[-1] else turned


def _quarter_turn(x: torch.Tensor, interleaved: bool) -> torch.Tensor:
    """Turns each pair of channels (a, b) into (-b, a)."""
    if interleaved:
        return torch.stack((-x[..., 1::2], x[..., 0::2]), -1).flatten(-2)
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), -1)


def _query_factors(scaling: QueryScaling, length: int) -> torch.Tensor:
    """The factor on the query at each position, float32 [length, 1]."""
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
    """Attention with a cap on scores, or a sink: one more score of each head, whose share of the softmax is lost."""
    value, scores, cap = _repeated(value, query.shape[1]), _scores(query, key, attention), attention.softcap
    scores = scores if cap is None else torch.tanh(scores / cap) * cap
    visible = _window_mask(query.shape[2], query.shape[2], query.device) if mask is None else mask
    scores = scores.masked_fill(~visible, -torch.inf)
    if sinks is None:
        return torch.matmul(functional.softmax(scores, -1), value)
    scores = torch.cat((scores, sinks[:, None, None].expand(*scores.shape[:-1], 1)), -1)
    return torch.matmul(functional.softmax(scores, -1)[..., :-1], value)


def _scores(query: torch.Tensor, key: torch.Tensor, attention: Attention) -> torch.Tensor:
    """The score of each query (row) and key (column), before a cap and the mask, [batch, heads, length, length]."""
    return torch.matmul(query, _repeated(key, query.shape[1]).transpose(2, 3)) * attention.scale


def _repeated(x: torch.Tensor, heads: int) -> torch.Tensor:
    return x.repeat_interleave(heads // x.shape[1], 1)


def _window_mask(length: int, window: int, device: torch.device) -> torch.Tensor:
    """True where a query (row) sees a key (column): itself and the `window` - 1 before; [1, 1, length, length]."""
    positions = torch.arange(length, device=device)
    distance = positions.unsqueeze(1) - positions.unsqueeze(0)
    return ((distance >= 0) & (distance < window))[None, None]
