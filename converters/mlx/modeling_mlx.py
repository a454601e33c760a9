"""A decoder whose layers differ in shape, for mlx-lm. This file is copied into every artifact.

config.json says all about the model under "decoder". A layer computes x += m N2(attention(N1(x))), then
x += m N4(mlp(N3(x))), where N are RMS norms or nothing and m is the residual multiplier.
"""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.base import create_attention_mask, scaled_dot_product_attention
from mlx_lm.models.cache import KVCache, RotatingKVCache
from mlx_lm.models.switch_layers import SwitchGLU


@dataclass
class ModelArgs:
    """What mlx-lm hands over of config.json."""

    model_type: str
    decoder: dict[str, Any]

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> "ModelArgs":
        """Called by mlx-lm with the whole of config.json."""
        return cls(config["model_type"], config["decoder"])


class Rotation:
    """Rotates the first `dims` channels of each head, in pairs that turn by one radian in `periods` positions."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.dims, self.interleaved, self.factor = given["dims"], given["interleaved"], given["factor"]
        self.periods = mx.array(given["periods"])
        self.switches_at = given.get("switches_at")  # longer inputs, earlier tokens included, have other periods
        self.long_periods = mx.array(given["long_periods"]) if self.switches_at else None

    def __call__(self, x: mx.array, offset: Any) -> mx.array:
        """Queries or keys [rows, heads, tokens, head_dim], from position `offset` on, each row's or all rows'."""
        if self.factor != 1.0:
            x = mx.concatenate([x[..., : self.dims] * self.factor, x[..., self.dims :]], axis=-1)
        if self.long_periods is None:
            return self.turned(x, offset, self.periods)
        is_long = mx.array(offset + x.shape[2] > self.switches_at).reshape(-1, 1, 1, 1)
        return mx.where(is_long, self.turned(x, offset, self.long_periods), self.turned(x, offset, self.periods))

    def turned(self, x: mx.array, offset: Any, periods: mx.array) -> mx.array:
        """The same, with these periods and without the factor."""
        options = {"traditional": self.interleaved, "base": None, "scale": 1.0}
        return mx.fast.rope(x, self.dims, **options, offset=offset, freqs=periods)


class Attention(nn.Module):
    """Attention of one layer, with its own numbers of heads."""

    def __init__(self, d: SimpleNamespace, layer: SimpleNamespace) -> None:
        super().__init__()
        self.d, self.heads, self.kv_heads = d, layer.heads, layer.kv_heads
        self.rotation = None if layer.rope is None else Rotation(d.ropes[layer.rope])
        for name, heads in (("q_proj", self.heads), ("k_proj", self.kv_heads), ("v_proj", self.kv_heads)):
            setattr(self, name, nn.Linear(d.hidden_size, heads * d.head_dim, bias=name in layer.biases))
        self.o_proj = nn.Linear(self.heads * d.head_dim, d.hidden_size, bias="o_proj" in layer.biases)
        if d.qk_norm:
            normed = (self.heads, self.kv_heads) if d.qk_norm == "over_all_heads" else (1, 1)
            self.q_norm, self.k_norm = (nn.RMSNorm(heads * d.head_dim, eps=d.rms_norm_eps) for heads in normed)

    def __call__(self, x: mx.array, mask: Any, cache: Any) -> mx.array:
        """What attention adds to the stream, [rows, tokens, hidden_size], given what it reads of it."""
        d, (rows, tokens, _) = self.d, x.shape
        offset = 0 if cache is None else cache.offset
        queries, keys, values = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        if d.qk_norm == "over_all_heads":
            queries, keys = self.q_norm(queries), self.k_norm(keys)
        queries, keys, values = (
            part.reshape(rows, tokens, heads, d.head_dim).transpose(0, 2, 1, 3)
            for part, heads in ((queries, self.heads), (keys, self.kv_heads), (values, self.kv_heads))
        )
        if d.qk_norm == "before_rotation":
            queries, keys = self.q_norm(queries), self.k_norm(keys)
        if self.rotation is not None:
            queries, keys = self.rotation(queries, offset), self.rotation(keys, offset)
        if d.qk_norm == "after_rotation":
            queries, keys = self.q_norm(queries), self.k_norm(keys)
        if d.query_scaling:
            positions = mx.maximum(mx.array(offset).reshape(-1, 1, 1, 1) + mx.arange(tokens)[:, None], 0)
            blocks = (positions // d.query_scaling["context"]).astype(mx.float32)
            queries = queries * (1 + d.query_scaling["beta"] * mx.log(1 + blocks)).astype(queries.dtype)
        if cache is not None:
            keys, values = cache.update_and_fetch(keys, values)
        if d.attention_softcap is None:
            attended = scaled_dot_product_attention(
                queries, keys, values, cache=cache, scale=d.attention_scale, mask=mask
            )
        else:
            attended = self.capped(queries, keys, values, mask)
        return self.o_proj(attended.transpose(0, 2, 1, 3).reshape(rows, tokens, -1))

    def capped(self, queries: mx.array, keys: mx.array, values: mx.array, mask: Any) -> mx.array:
        """Attention whose scores s become c tanh(s / c), which MLX has no kernel for."""
        cap, shape = self.d.attention_softcap, queries.shape
        grouped = queries.reshape(shape[0], self.kv_heads, -1, *shape[2:])
        scores = grouped @ keys[:, :, None].swapaxes(-1, -2) * self.d.attention_scale
        scores = mx.tanh(scores / cap) * cap
        if mask is not None:
            scores = mx.where(mask if mask.ndim == 2 else mask[:, :, None], scores, mx.finfo(scores.dtype).min)
        return (mx.softmax(scores, axis=-1, precise=True) @ values[:, :, None]).reshape(shape)


class MLP(nn.Module):
    """An MLP with a width of its own, which may be 0."""

    def __init__(self, d: SimpleNamespace, width: int, biases: list[str]) -> None:
        super().__init__()
        self.width = width
        if width == 0:
            return
        self.activation = {"silu": nn.silu, "gelu_tanh": nn.gelu_approx}[d.activation]
        for name in ("gate_proj", "up_proj"):
            setattr(self, name, nn.Linear(d.hidden_size, width, bias=name in biases))
        self.down_proj = nn.Linear(width, d.hidden_size, bias="down_proj" in biases)

    def __call__(self, x: mx.array) -> mx.array:
        """What the MLP adds to the stream, given what it reads of it."""
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))


class Mixture(MLP):
    """Experts, of which each token has some, the one that all share, and an MLP beside them."""

    def __init__(self, d: SimpleNamespace, layer: SimpleNamespace) -> None:
        super().__init__(d, layer.width, layer.biases)
        e = self.e = SimpleNamespace(**layer.experts)
        self.gate = nn.Linear(d.hidden_size, e.number, bias="router" in layer.biases)
        if e.selection_bias:
            self.gate.selection_bias = mx.zeros(e.number)
        self.experts = SwitchGLU(d.hidden_size, e.width, e.number)
        if e.shared_width:
            self.shared_expert = MLP(d, e.shared_width, [])
        if e.shared_scale:
            self.shared_expert_gate = nn.Linear(d.hidden_size, 1, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        """What all of them add to the stream, given what they read of it."""
        e, logits = self.e, self.gate(x).astype(mx.float32)
        scores = mx.softmax(logits, axis=-1) if e.scores == "softmax" else mx.sigmoid(logits)
        preferred = scores + self.gate.selection_bias if e.selection_bias else scores
        chosen = mx.argpartition(-preferred, kth=e.per_token - 1, axis=-1)[..., : e.per_token]
        weights = mx.take_along_axis(scores, chosen, axis=-1)
        if e.normalised:
            weights = weights / weights.sum(axis=-1, keepdims=True)
        weights = (weights * e.scaling).astype(x.dtype)
        added = (self.experts(x, chosen) * weights[..., None]).sum(axis=-2)
        if e.shared_width:
            shared = self.shared_expert(x)
            added = added + (mx.sigmoid(self.shared_expert_gate(x)) * shared if e.shared_scale else shared)
        return added + super().__call__(x) if self.width else added


class Layer(nn.Module):
    """A decoder layer."""

    def __init__(self, d: SimpleNamespace, layer: SimpleNamespace) -> None:
        super().__init__()
        self.window, self.multiplier = layer.window, d.residual_multiplier
        self.self_attn = Attention(d, layer)
        self.mlp = Mixture(d, layer) if hasattr(layer, "experts") else MLP(d, layer.width, layer.biases)
        for name in d.norms:
            setattr(self, name, nn.RMSNorm(d.hidden_size, eps=d.rms_norm_eps))

    def __call__(self, x: mx.array, mask: Any, cache: Any) -> mx.array:
        """The stream [rows, tokens, hidden_size] after this layer."""
        added = self.self_attn(self.normed("input_layernorm", x), mask, cache)
        x = x + self.multiplier * self.normed("post_self_attn_layernorm", added)
        added = self.mlp(self.normed("post_attention_layernorm", x))
        return x + self.multiplier * self.normed("post_mlp_layernorm", added)

    def normed(self, name: str, x: mx.array) -> mx.array:
        """The norm of x, or x where there is no such norm."""
        return self[name](x) if name in self else x


class Decoder(nn.Module):
    """Embedding, layers and last norm."""

    def __init__(self, d: SimpleNamespace) -> None:
        super().__init__()
        self.d = d
        self.embed_tokens = nn.Embedding(d.vocab_size, d.hidden_size)
        self.layers = [Layer(d, SimpleNamespace(**layer)) for layer in d.layers]
        self.norm = nn.RMSNorm(d.hidden_size, eps=d.rms_norm_eps)

    def __call__(self, inputs: mx.array, cache: Any, input_embeddings: mx.array | None) -> mx.array:
        """Hidden states [rows, tokens, hidden_size] after the last norm."""
        x = self.embed_tokens(inputs) if input_embeddings is None else input_embeddings
        x = x * self.d.embedding_multiplier
        caches = [None] * len(self.layers) if cache is None else cache
        masks, as_array = {}, self.d.attention_softcap is not None
        for layer, layer_cache in zip(self.layers, caches, strict=True):
            if layer.window not in masks:
                masks[layer.window] = create_attention_mask(
                    x, layer_cache, window_size=layer.window, return_array=as_array
                )
            x = layer(x, masks[layer.window], layer_cache)
        return self.norm(x)


class Model(nn.Module):
    """What mlx-lm runs."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.args, self.model_type, self.d = args, args.model_type, SimpleNamespace(**args.decoder)
        self.model = Decoder(self.d)
        if not self.d.tie_word_embeddings:
            self.lm_head = nn.Linear(self.d.hidden_size, self.d.vocab_size, bias=False)

    def __call__(self, inputs: mx.array, cache: Any = None, input_embeddings: mx.array | None = None) -> mx.array:
        """Logits [rows, tokens, vocab_size] of token ids [rows, tokens], or of embeddings."""
        x = self.model(inputs, cache, input_embeddings) * self.d.logits_multiplier
        logits = self.model.embed_tokens.as_linear(x) if self.d.tie_word_embeddings else self.lm_head(x)
        cap = self.d.logits_softcap
        return logits if cap is None else mx.tanh(logits / cap) * cap

    @property
    def layers(self) -> list[nn.Module]:
        """Looked up by mlx-lm."""
        return self.model.layers

    def make_cache(self) -> list[Any]:
        """The caches that mlx-lm uses: layers with a window keep no more than that."""
        return [RotatingKVCache(layer.window) if layer.window else KVCache() for layer in self.layers]
