"""What a `ModelSpec` computes, written out in float64 for one row and one call after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch.nn import functional

from seap_export.model.families import Attention, Experts, Mlp, ModelSpec, RopeSpec, SharedExpert, names
from seap_export.model.families.names import Projection
from seap_export.model.layers.sublayers.rotary import rotary_tables


def random_tensors(spec: ModelSpec) -> dict[str, torch.Tensor]:
    """Weights of the plain form that make attention, norms and biases matter."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in spec.tensors().items():
        scale = 0.5 if "embed" in name else 0.2
        centre = 1.0 if ("norm" in name and name.endswith("weight")) or name.endswith("layer_scalar") else 0.0
        tensors[name] = centre + scale * torch.randn(shape, generator=generator)
    return tensors


class Reference:
    """One generation, continued by `call`; `caches`: keys and values of each layer, [KV heads, tokens, head_dim]."""

    def __init__(self, spec: ModelSpec, tensors: Mapping[str, torch.Tensor]) -> None:
        self._spec, self._tensors = spec, {name: tensor.double() for name, tensor in tensors.items()}
        empty = torch.zeros(0, 0, 0, dtype=torch.float64)
        self.caches = [(empty, empty) for _ in spec.layers]

    def call(self, ids: Sequence[int]) -> torch.Tensor:
        """The logits of these tokens, [tokens, vocab_size]."""
        spec, block, weights = self._spec, self._spec.block, self._tensors
        stream = weights[names.tensor("embed_tokens")][torch.tensor(ids)] * block.embedding_multiplier
        for index in range(len(spec.layers)):
            read = stream
            for sublayer in spec.layers[index].sublayers:
                read = read if sublayer.beside else stream
                x = self._normed(sublayer.norm_before, index, read)
                if isinstance(sublayer, Experts):
                    x = self._experts(index, sublayer, x)
                elif isinstance(sublayer, SharedExpert):
                    gate, up = (self._linear(name, index, x) for name in ("shared_gate_proj", "shared_up_proj"))
                    written = self._linear(sublayer.output, index, functional.silu(gate) * up)
                    x = torch.sigmoid(self._linear("shared_gate", index, x)) * written
                else:
                    channels = self._attention(index, x) if isinstance(sublayer, Attention) else self._mlp(index, x)
                    x = self._linear(sublayer.output, index, channels)
                stream = stream + self._normed(sublayer.norm_after, index, x) * sublayer.multiplier
        head = weights[names.tensor("embed_tokens" if spec.tie_word_embeddings else "lm_head")]
        logits = self._normed("norm", None, stream) @ head.T * block.logits_multiplier
        return logits if block.logits_softcap is None else _capped(logits, block.logits_softcap)

    def _mlp(self, index: int, x: torch.Tensor) -> torch.Tensor:
        mlp, up = self._spec.layers[index][Mlp], self._linear("up_proj", index, x)
        gate = self._linear("gate_proj", index, x) if mlp.is_gated else up
        activated = {
            "silu": functional.silu(gate),
            "gelu_tanh": functional.gelu(gate, approximate="tanh"),
            "gelu": functional.gelu(gate),
            "relu": functional.relu(gate),
            "relu2": functional.relu(gate) ** 2,
        }[mlp.activation]
        return activated * up if mlp.is_gated else activated

    def _experts(self, index: int, experts: Experts, x: torch.Tensor) -> torch.Tensor:
        """Token by token, expert by expert."""
        kinds: tuple[Projection, ...] = ("experts_gate_proj", "experts_up_proj", "experts_down_proj")
        gates, ups, downs = (self._tensors[names.weight(name, index)] for name in kinds)
        width, written = experts.moe_intermediate_size, []
        for token, probabilities in zip(x, self._linear("router", index, x).softmax(-1), strict=True):
            total = torch.zeros_like(token)
            chosen = probabilities.argsort(descending=True)[: experts.experts_per_token]
            for expert in chosen.tolist():
                rows = slice(expert * width, (expert + 1) * width)
                neurons = functional.silu(gates[rows] @ token) * (ups[rows] @ token)
                weight = probabilities[expert] / (probabilities[chosen].sum() if experts.is_normalised else 1.0)
                total = total + weight * (downs[:, rows] @ neurons)
            written.append(total)
        return torch.stack(written)

    def _attention(self, index: int, x: torch.Tensor) -> torch.Tensor:
        layer = self._spec.layers[index][Attention]
        query, key, value = (self._linear(name, index, x) for name in ("q_proj", "k_proj", "v_proj"))
        if layer.qk_norm == "over_all_heads":
            query, key = self._norm("q_norm", index, query), self._norm("k_norm", index, key)
        query, key, value = (part.unflatten(-1, (-1, layer.head_dim)).transpose(0, 1) for part in (query, key, value))
        start = self.caches[index][0].shape[1] if self.caches[index][0].numel() else 0
        if layer.qk_norm == "before_rotation":
            query, key = self._norm("q_norm", index, query), self._norm("k_norm", index, key)
        if layer.rope is not None:
            query, key = (_rotated(part, layer.rope, start) for part in (query, key))
        if layer.qk_norm == "after_rotation":
            query, key = self._norm("q_norm", index, query), self._norm("k_norm", index, key)
        if start:
            key, value = (torch.cat(parts, 1) for parts in zip(self.caches[index], (key, value), strict=True))
        self.caches[index] = (key, value)
        return _attended(query * _factors(layer, start, len(x)), key, value, start, layer)

    def _normed(self, name: str | None, index: int | None, x: torch.Tensor) -> torch.Tensor:
        """The stream, or what is added to it, after a norm; `x` itself if there is none."""
        if name is None:
            return x
        if not self._spec.norm.is_centred:
            return self._norm(name, index, x)
        gain, bias = (self._tensors.get(names.tensor(part, index)) for part in (name, f"{name}_bias"))
        return functional.layer_norm(x, x.shape[-1:], gain, bias, self._spec.norm.epsilon)

    def _norm(self, name: str, index: int | None, x: torch.Tensor) -> torch.Tensor:
        root = (x.square().mean(-1, keepdim=True) + self._spec.norm.epsilon).sqrt()
        return x / root * self._tensors[names.tensor(name, index)]

    def _linear(self, name: str, index: int, x: torch.Tensor) -> torch.Tensor:
        stem = names.tensor(name, index)
        product = functional.linear(x, self._tensors[f"{stem}.weight"], self._tensors.get(f"{stem}.bias"))
        sublayers = self._spec.layers[index].sublayers
        factors: dict[str, float] = {one: f for sublayer in sublayers for one, f in sublayer.factors.items()}
        return product * factors.get(name, 1.0)


def _capped(x: torch.Tensor, cap: float) -> torch.Tensor:
    return cap * torch.tanh(x / cap)


def _rotated(x: torch.Tensor, rope: RopeSpec, start: int) -> torch.Tensor:
    """Each pair of channels as a complex number times a turn; [heads, tokens, head_dim]."""
    end = start + x.shape[1]
    is_long = rope.switches_at is not None and end > rope.switches_at
    cos, sin = (table[start:].double() for table in rotary_tables(rope, end, long=is_long))
    rotated, rest = x[..., : rope.dim], x[..., rope.dim :]
    real, imaginary = (rotated[..., 0::2], rotated[..., 1::2]) if rope.interleaved else rotated.chunk(2, -1)
    turned = real * cos - imaginary * sin, real * sin + imaginary * cos
    joined = torch.stack(turned, -1).flatten(-2) if rope.interleaved else torch.cat(turned, -1)
    return torch.cat((joined, rest), -1)


def _factors(layer: Attention, start: int, length: int) -> torch.Tensor:
    scaling = layer.query_scaling
    if scaling is None:
        return torch.ones(length, 1, dtype=torch.float64)
    numbers = torch.arange(start, start + length, dtype=torch.float64) // scaling.context
    return (1 + scaling.beta * torch.log(1 + numbers)).unsqueeze(1)


def _attended(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, start: int, layer: Attention
) -> torch.Tensor:
    """[tokens, heads * head_dim]."""
    key, value = (part.repeat_interleave(layer.heads_per_group, 0) for part in (key, value))
    scores = query @ key.transpose(1, 2) * layer.scale
    if layer.softcap is not None:
        scores = _capped(scores, layer.softcap)
    distance = torch.arange(start, key.shape[1]).unsqueeze(1) - torch.arange(key.shape[1])
    is_hidden = (distance < 0) | (distance >= (layer.sliding_window or key.shape[1] + 1))
    weights = torch.softmax(scores.masked_fill(is_hidden, -torch.inf), -1)
    return (weights @ value).transpose(0, 1).flatten(1)
