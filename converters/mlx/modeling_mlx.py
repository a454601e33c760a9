"""A decoder whose layers differ in shape, for mlx-lm. This file is copied into every artifact.

config.json says all about the model under "decoder". A layer computes x += m N2(mixer(N1(x))), then
x += m N4(mlp(N3(x))), where N are RMS norms or nothing, m is the residual multiplier, and the mixer is attention, a
short convolution or a gated delta net. Some models then add inputs of the layer, which depend on the token alone.
"""

import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.base import create_attention_mask, scaled_dot_product_attention
from mlx_lm.models.cache import ArraysCache, KVCache, RotatingKVCache
from mlx_lm.models.gated_delta import gated_delta_update, normalize_qk
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
    """Rotates the first `dims` channels of each head, in pairs that turn by one radian in `periods` positions.

    A pair whose period is null does not turn.
    """

    def __init__(self, given: dict[str, Any]) -> None:
        self.dims, self.interleaved, self.factor = given["dims"], given["interleaved"], given["factor"]
        self.periods = mx.array([math.inf if period is None else period for period in given["periods"]])
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
        self.d, self.a = d, SimpleNamespace(**layer.attention)
        heads, kv_heads, size = self.a.heads, self.a.kv_heads, self.a.head_dim
        self.rotation = None if self.a.rope is None else Rotation(d.ropes[self.a.rope])
        widths = {"q_proj": heads * size, "k_proj": kv_heads * size, "v_proj": kv_heads * size}
        widths["g_proj"] = heads * (1 if self.a.gate == "heads" else size)
        for name in self.a.readers:
            setattr(self, name, nn.Linear(d.hidden_size, widths[name], bias=name in layer.biases))
        self.o_proj = nn.Linear(heads * size, d.hidden_size, bias="o_proj" in layer.biases)
        for name, width in self.a.norms.items():
            setattr(self, name, nn.RMSNorm(width, eps=d.rms_norm_eps))

    def __call__(self, x: mx.array, mask: Any, cache: Any, lent: dict[int, Any], index: int) -> mx.array:
        """What attention adds to the stream, [rows, tokens, hidden_size], given what it reads of it.

        `lent` has the keys and values of earlier layers, by index, and the position of the first new token.
        """
        a, (rows, tokens, _) = self.a, x.shape
        if a.lender is None:
            offset = 0 if cache is None else cache.offset
            keys, values = self.keys_and_values(x, offset)
            if cache is not None:
                offset = offset if isinstance(offset, int) else mx.array(offset)  # which the cache counts up in place
                keys, values = cache.update_and_fetch(keys, values)
            lent[index] = keys, values, offset
        else:
            keys, values, offset = lent[a.lender]
        queries = self.rotated(self.q_proj(x), "q_norm", a.heads, offset)
        if self.d.query_scaling:
            scaling = self.d.query_scaling
            positions = mx.maximum(mx.array(offset).reshape(-1, 1, 1, 1) + mx.arange(tokens)[:, None], 0)
            blocks = (positions // scaling["context"]).astype(mx.float32)
            queries = queries * (1 + scaling["beta"] * mx.log(1 + blocks)).astype(queries.dtype)
        if self.d.attention_softcap is None:
            attended = scaled_dot_product_attention(queries, keys, values, cache=cache, scale=a.scale, mask=mask)
        else:
            attended = self.capped(queries, keys, values, mask)
        attended = attended.transpose(0, 2, 1, 3)
        if a.gate is not None:
            attended = attended * mx.sigmoid(self.g_proj(x)).reshape(rows, tokens, a.heads, -1)
        return self.o_proj(attended.reshape(rows, tokens, -1))

    def keys_and_values(self, x: mx.array, offset: Any) -> tuple[mx.array, mx.array]:
        """Those of the new tokens, [rows, KV heads, tokens, head_dim] each."""
        keys = self.k_proj(x)
        values = (self.v_proj(x) if "v_proj" in self else keys).reshape(*x.shape[:2], self.a.kv_heads, -1)
        values = self.v_norm(values) if "v_norm" in self else values
        return self.rotated(keys, "k_norm", self.a.kv_heads, offset), values.transpose(0, 2, 1, 3)

    def rotated(self, x: mx.array, norm: str, heads: int, offset: Any) -> mx.array:
        """Queries or keys [rows, tokens, channels], normalised and rotated, [rows, heads, tokens, head_dim]."""
        when = self.d.qk_norm
        x = self[norm](x) if when == "over_all_heads" else x
        x = x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)
        x = self[norm](x) if when == "before_rotation" else x
        x = x if self.rotation is None else self.rotation(x, offset)
        return self[norm](x) if when == "after_rotation" else x

    def capped(self, queries: mx.array, keys: mx.array, values: mx.array, mask: Any) -> mx.array:
        """Attention whose scores s become c tanh(s / c), which MLX has no kernel for."""
        cap, shape = self.d.attention_softcap, queries.shape
        grouped = queries.reshape(shape[0], self.a.kv_heads, -1, *shape[2:])
        scores = grouped @ keys[:, :, None].swapaxes(-1, -2) * self.a.scale
        scores = mx.tanh(scores / cap) * cap
        if mask is not None:
            scores = mx.where(mask if mask.ndim == 2 else mask[:, :, None], scores, mx.finfo(scores.dtype).min)
        return (mx.softmax(scores, axis=-1, precise=True) @ values[:, :, None]).reshape(shape)


class Kernel(nn.Module):
    """A causal convolution of each channel, with a kernel [channels, 1, size]."""

    def __init__(self, channels: int, size: int, bias: bool) -> None:
        super().__init__()
        self.weight = mx.zeros((channels, 1, size))
        if bias:
            self.bias = mx.zeros(channels)

    def __call__(self, x: mx.array, cache: Any) -> mx.array:
        """The convolution of [rows, tokens, channels], of which padding is 0; the cache keeps the last inputs."""
        (rows, tokens, channels), kept = x.shape, self.weight.shape[2] - 1
        past = None if cache is None else cache[0]
        past = mx.zeros((rows, kept, channels), x.dtype) if past is None else past
        x = mx.concatenate([past, x], axis=1)
        if cache is not None and cache.lengths is not None:  # rows that are padded on the right
            ends = mx.clip(cache.lengths, 0, tokens)[:, None] + mx.arange(kept)
            cache[0] = mx.take_along_axis(x, ends[..., None], axis=1)
        elif cache is not None:
            cache[0] = mx.contiguous(x[:, -kept:])
        made = mx.conv1d(x, self.weight.swapaxes(1, 2), groups=channels)
        return made + self.bias if "bias" in self else made


class Convolution(nn.Module):
    """A short convolution: its input is gated, and so is its output."""

    def __init__(self, d: SimpleNamespace, layer: SimpleNamespace) -> None:
        super().__init__()
        channels, size = layer.convolution["channels"], layer.convolution["kernel_size"]
        for name in ("b_proj", "c_proj", "x_proj"):
            setattr(self, name, nn.Linear(d.hidden_size, channels, bias=name in layer.biases))
        self.conv = Kernel(channels, size, layer.convolution["kernel_bias"])
        self.out_proj = nn.Linear(channels, d.hidden_size, bias="out_proj" in layer.biases)

    def __call__(self, x: mx.array, cache: Any) -> mx.array:
        """What it adds to the stream, given what it reads of it."""
        gated = real_alone(self.b_proj(x) * self.x_proj(x), cache)
        channels = self.c_proj(x) * self.conv(gated, cache)
        if cache is not None:
            cache.advance(x.shape[1])
        return self.out_proj(channels)


class DeltaNet(nn.Module):
    """A gated delta net, whose states are float32."""

    def __init__(self, d: SimpleNamespace, layer: SimpleNamespace) -> None:
        super().__init__()
        n = self.n = SimpleNamespace(**layer.delta_net)
        self.key_width, values = n.key_heads * n.key_dim, n.value_heads * n.value_dim
        widths = {"qkv": 2 * self.key_width + values, "z": values, "b": n.value_heads, "a": n.value_heads}
        for name, width in widths.items():
            setattr(self, f"in_proj_{name}", nn.Linear(d.hidden_size, width, bias=False))
        self.conv1d = Kernel(widths["qkv"], n.kernel_size, bias=False)
        self.A_log, self.dt_bias = mx.zeros(n.value_heads), mx.zeros(n.value_heads)
        self.norm = nn.RMSNorm(n.value_dim, eps=d.rms_norm_eps)
        self.out_proj = nn.Linear(values, d.hidden_size, bias="delta_out_proj" in layer.biases)

    def __call__(self, x: mx.array, cache: Any) -> mx.array:
        """What it adds to the stream, given what it reads of it."""
        n, (rows, tokens, _) = self.n, x.shape
        mask = None if cache is None else cache.make_mask(tokens)
        packed = nn.silu(self.conv1d(real_alone(self.in_proj_qkv(x), cache), cache))
        queries, keys, values = mx.split(packed, [self.key_width, 2 * self.key_width], axis=-1)
        queries, keys = (part.reshape(rows, tokens, n.key_heads, n.key_dim) for part in (queries, keys))
        queries, keys = normalize_qk(queries, keys, inv_scale=n.key_dim**-0.5, eps=1e-6)
        values = values.reshape(rows, tokens, n.value_heads, n.value_dim)
        state = None if cache is None else cache[1]
        rates, decay = self.in_proj_b(x), self.in_proj_a(x)
        heads, state = gated_delta_update(
            queries, keys, values, decay, rates, self.A_log, self.dt_bias, state, mask, use_kernel=not self.training
        )
        if cache is not None:
            cache[1] = state
            cache.advance(tokens)
        normed = self.norm(heads).reshape(rows, tokens, -1).astype(mx.float32)
        return self.out_proj((normed * nn.silu(self.in_proj_z(x).astype(mx.float32))).astype(x.dtype))


def real_alone(x: mx.array, cache: Any) -> mx.array:
    """[rows, tokens, channels] with 0 at tokens that are padding."""
    mask = None if cache is None else cache.make_mask(x.shape[1])
    return x if mask is None else mx.where(mask[..., None], x, 0)


ACTIVATIONS = {"silu": nn.silu, "gelu_tanh": nn.gelu_approx}


class MLP(nn.Module):
    """An MLP with a width of its own, which may be 0."""

    def __init__(self, d: SimpleNamespace, width: int, biases: list[str]) -> None:
        super().__init__()
        self.width = width
        if width == 0:
            return
        self.activation = ACTIVATIONS[d.activation]
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

    def __init__(self, d: SimpleNamespace, layer: SimpleNamespace, index: int) -> None:
        super().__init__()
        self.index, self.multiplier, self.inputs = index, d.residual_multiplier, layer.inputs
        self.window = self.lender = None
        if hasattr(layer, "attention"):
            self.self_attn = Attention(d, layer)
            self.window, self.lender = layer.attention["window"], layer.attention["lender"]
        elif hasattr(layer, "convolution"):
            self.conv = Convolution(d, layer)
        else:
            self.linear_attn = DeltaNet(d, layer)
        self.mlp = Mixture(d, layer) if hasattr(layer, "experts") else MLP(d, layer.width, layer.biases)
        for name in d.norms:
            setattr(self, name, nn.RMSNorm(d.hidden_size, eps=d.rms_norm_eps))
        if layer.inputs:
            self.activation = ACTIVATIONS[d.activation]
            self.per_layer_input_gate = nn.Linear(d.hidden_size, layer.inputs, bias=False)
            self.per_layer_projection = nn.Linear(layer.inputs, d.hidden_size, bias=False)
        if layer.scaled:
            self.layer_scalar = mx.ones(1)

    def __call__(self, x: mx.array, mask: Any, cache: Any, lent: dict[int, Any], inputs: mx.array | None) -> mx.array:
        """The stream [rows, tokens, hidden_size] after this layer; `inputs` [rows, tokens, inputs] are the layer's."""
        read = self.normed("input_layernorm", x)
        if "self_attn" in self:
            added = self.self_attn(read, mask, cache, lent, self.index)
        else:
            added = (self.conv if "conv" in self else self.linear_attn)(read, cache)
        x = x + self.multiplier * self.normed("post_self_attn_layernorm", added)
        added = self.mlp(self.normed("post_attention_layernorm", x))
        x = x + self.multiplier * self.normed("post_mlp_layernorm", added)
        if inputs is not None:
            added = self.per_layer_projection(self.activation(self.per_layer_input_gate(x)) * inputs)
            x = x + self.normed("post_layer_input_norm", added)
        return x * self.layer_scalar if "layer_scalar" in self else x

    def normed(self, name: str, x: mx.array) -> mx.array:
        """The norm of x, or x where there is no such norm."""
        return self[name](x) if name in self else x

    def empty_cache(self) -> Any:
        """A cache of mlx-lm's for what this layer keeps of earlier tokens; a window keeps no more than that."""
        if "self_attn" in self:
            return RotatingKVCache(self.window) if self.window else KVCache()
        return ArraysCache(1 if "conv" in self else 2)


class Decoder(nn.Module):
    """Embedding, layers and last norm."""

    def __init__(self, d: SimpleNamespace) -> None:
        super().__init__()
        self.d = d
        self.embed_tokens = nn.Embedding(d.vocab_size, d.hidden_size)
        self.layers = [Layer(d, SimpleNamespace(**layer), index) for index, layer in enumerate(d.layers)]
        self.norm = nn.RMSNorm(d.hidden_size, eps=d.rms_norm_eps)
        if d.layer_inputs:
            self.layer_inputs = nn.Embedding(d.vocab_size, len(d.layers) * d.layer_inputs)
            self.layer_inputs_proj = nn.Linear(d.hidden_size, len(d.layers) * d.layer_inputs, bias=False)
            self.layer_inputs_norm = nn.RMSNorm(d.layer_inputs, eps=d.rms_norm_eps)

    def __call__(self, inputs: mx.array, cache: Any, input_embeddings: mx.array | None) -> mx.array:
        """Hidden states [rows, tokens, hidden_size] after the last norm."""
        x = self.embed_tokens(inputs) if input_embeddings is None else input_embeddings
        x = x * self.d.embedding_multiplier
        of_layers = self.inputs_of_layers(inputs, x) if self.d.layer_inputs else [None] * len(self.layers)
        caches = iter([None] * len(self.layers) if cache is None else cache)
        masks: dict[int | None, Any] = {}
        lent: dict[int, Any] = {}
        as_array = self.d.attention_softcap is not None
        for layer, of_layer in zip(self.layers, of_layers, strict=True):
            layer_cache = None if layer.lender is not None else next(caches)
            if "self_attn" in layer and layer.window not in masks:  # one that borrows comes after its lender
                masks[layer.window] = create_attention_mask(
                    x, layer_cache, window_size=layer.window, return_array=as_array
                )
            x = layer(x, masks.get(layer.window), layer_cache, lent, of_layer)
        return self.norm(x)

    def inputs_of_layers(self, inputs: mx.array, x: mx.array) -> list[mx.array]:
        """What each layer has of the tokens besides the stream, [rows, tokens, inputs] each."""
        number = self.d.layer_inputs
        of_token = self.layer_inputs(inputs) * number**0.5
        of_embedding = self.layer_inputs_proj(x) * self.d.hidden_size**-0.5
        shape = (*inputs.shape, -1, number)
        both = (self.layer_inputs_norm(of_embedding.reshape(shape)) + of_token.reshape(shape)) * 2**-0.5
        return [both[:, :, index] for index in range(len(self.layers))]


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
        """The caches of all layers that keep something of earlier tokens themselves, for mlx-lm."""
        return [layer.empty_cache() for layer in self.layers if layer.lender is None]
