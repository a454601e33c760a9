"""What the architectures of llama.cpp compute, and which of them computes a model.

llama.cpp builds one graph per architecture, with few choices in its metadata. A model is written in the architecture
of its family where that computes it, or in another one that does. Where layers differ in shape, that is `deci`, which
is Llama with sizes of each layer's own and biases everywhere, or `openelm`, with norms of queries and keys.

Source: https://github.com/ggml-org/llama.cpp at 0c1e57098, src/models/*.cpp and src/llama-model.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from seap_export.families import Attention, Mlp, ModelSpec, RopeSpec
from seap_export.families.names import NORMS, PROJECTIONS, QKV, Norm, Projection
from seap_export.families.sublayers import Activation, QkNorm

__all__ = ["ARCHITECTURES", "Architecture", "effective_window", "full_rope", "local_rope", "why_not"]

_USUAL_NORMS: frozenset[Norm] = frozenset({"input_layernorm", "post_attention_layernorm"})
_NO_NAMES: Mapping[str, str] = MappingProxyType({})
_UNSCALED = frozenset({"default", "linear", "yarn"})
#: Rotations that need a tensor of factors.
_ALL_ROPES = frozenset({*_UNSCALED, "llama3", "longrope"})


@dataclass(frozen=True)
class Architecture:
    """What the layers of an architecture compute, beyond the sizes that its metadata give.

    Attributes:
        name: `general.architecture`.
        norms: The norms of the residual stream.
        qk_norm: How queries and keys are normalised; None: not at all.
        activation: Of the gate, or of an MLP without one.
        is_gated: Whether the MLP has a gate.
        neighbours: Whether the channels of a rotated pair are neighbours; otherwise half of those rotated lie between.
        partial: Whether less than a whole head can be rotated.
        biases: The projections that can have a bias.
        fused: Whether it wants projections of one kind (`qkv_proj`, `gate_up_proj`) as one tensor.
        norm_names: GGUF names of norms that usually mean another one.
        varies: Whether heads, KV heads and neurons can differ between layers.
        square: Whether queries must be as wide as the hidden states.
        tied: Whether the LM head must be the embedding.
        untied: Whether it must not be.
        ropes: The rotations that it computes.
        windows: Whether layers can attend within a window; a number: only in models of so many layers, which must.
        needs_window: Whether at least one layer must have a window.
        local_theta: Whether layers with a window rotate by a base of their own, unscaled.
        unrotated: Which layers do not rotate.
        scaled_by_keys: Whether metadata give the factors on embeddings, attention, residuals and logits.
        scales_embeddings: Whether embeddings are multiplied by the root of the hidden size.
        wide_scale: In models of so many layers, attention is scaled by hidden size / heads in place of the head size.
        attention_softcap: Whether attention scores can be capped.
        logits_softcap: Whether logits can be.
        always_caps: Whether both must be.
        query_scaling: Whether queries can be scaled by position.
        yarn_betas: Whether yarn's limits can be given; otherwise they are 32 and 1.
    """

    name: str
    norms: frozenset[Norm] = _USUAL_NORMS
    qk_norm: QkNorm | None = None
    activation: Activation = "silu"
    is_gated: bool = True
    neighbours: bool = False
    partial: bool = False
    biases: frozenset[Projection] = frozenset(QKV)
    fused: tuple[str, ...] = ()
    norm_names: Mapping[str, str] = field(default_factory=lambda: _NO_NAMES)
    varies: bool = False
    square: bool = False
    tied: bool = False
    untied: bool = False
    ropes: frozenset[str] = _UNSCALED
    windows: bool | int = False
    needs_window: bool = False
    local_theta: bool = False
    unrotated: Literal["none", "every fourth", "all", "without window"] = "none"
    scaled_by_keys: bool = False
    scales_embeddings: bool = False
    wide_scale: int = 0
    attention_softcap: bool = False
    logits_softcap: bool = False
    always_caps: bool = False
    query_scaling: bool = False
    yarn_betas: bool = False


_EVERYWHERE = frozenset(PROJECTIONS)
_AFTER: frozenset[Norm] = frozenset({"post_self_attn_layernorm", "post_mlp_layernorm"})
_GEMMA = Architecture("gemma", activation="gelu_tanh", scales_embeddings=True, tied=True)
#: The general ones first.
ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture("llama", neighbours=True, biases=_EVERYWHERE, ropes=_ALL_ROPES),
    Architecture("deci", neighbours=True, biases=_EVERYWHERE, ropes=_ALL_ROPES, varies=True),
    Architecture(
        "openelm", qk_norm="before_rotation", biases=frozenset(), fused=("qkv_proj",), varies=True, tied=True
    ),
    Architecture("arcee", activation="relu2", is_gated=False, neighbours=True, ropes=_ALL_ROPES),
    Architecture("qwen2", square=True),
    Architecture("qwen3", qk_norm="before_rotation"),
    Architecture("seed_oss", norm_names={"post_attention_layernorm": "post_attention_norm"}),
    Architecture("ernie4_5", neighbours=True, biases=frozenset({*QKV, "o_proj"})),
    Architecture(
        "granite", neighbours=True, biases=_EVERYWHERE, ropes=_ALL_ROPES, scaled_by_keys=True, unrotated="all"
    ),
    Architecture(
        "mistral3", neighbours=True, biases=_EVERYWHERE, ropes=_ALL_ROPES, query_scaling=True, yarn_betas=True
    ),
    Architecture("smollm3", neighbours=True, unrotated="every fourth"),
    Architecture(
        "phi3", partial=True, fused=("qkv_proj", "gate_up_proj"), square=True, ropes=_UNSCALED | {"longrope"}
    ),
    Architecture("chatglm", neighbours=True, partial=True, fused=("gate_up_proj",), square=True),
    Architecture("glm4", norms=frozenset(NORMS), neighbours=True, partial=True, fused=("gate_up_proj",)),
    Architecture("hunyuan-dense", qk_norm="after_rotation"),
    Architecture(
        "exaone4",
        norms=_AFTER,
        qk_norm="before_rotation",
        square=True,
        ropes=_UNSCALED | {"llama3"},
        windows=64,
        unrotated="without window",
    ),
    Architecture("olmo2", norms=_AFTER, qk_norm="over_all_heads", square=True, biases=frozenset(), untied=True),
    _GEMMA,
    Architecture(
        "gemma2",
        norms=frozenset(NORMS),
        activation="gelu_tanh",
        scales_embeddings=True,
        tied=True,
        windows=True,
        needs_window=True,
        wide_scale=46,
        attention_softcap=True,
        always_caps=True,
        logits_softcap=True,
    ),
    Architecture(
        "gemma3",
        norms=frozenset(NORMS),
        qk_norm="before_rotation",
        activation="gelu_tanh",
        scales_embeddings=True,
        windows=True,
        local_theta=True,
        wide_scale=62,
        logits_softcap=True,
    ),
)


def effective_window(spec: ModelSpec, layer: Attention) -> int | None:
    """The window of a layer's attention; None if it reaches all positions of the model."""
    window = layer.sliding_window
    return None if window is None or window >= spec.max_position_embeddings else window


def full_rope(spec: ModelSpec) -> RopeSpec | None:
    """The rotation of layers without a window, or of all if each has one; None: none rotates."""
    rotating = [layer for layer in spec.all(Attention) if layer.rope is not None]
    whole = [layer for layer in rotating if layer.sliding_window is None]
    return next((layer.rope for layer in whole or rotating), None)


def local_rope(spec: ModelSpec) -> RopeSpec | None:
    """The rotation of layers with a window; None: there are none that rotate."""
    windowed = (layer.rope for layer in spec.all(Attention) if layer.sliding_window is not None)
    return next(filter(None, windowed), None)


def why_not(architecture: Architecture, spec: ModelSpec) -> str | None:
    """What llama.cpp's architecture lacks to compute this model; None: it does compute it."""
    if spec.norm.is_centred:
        return "has no LayerNorm"
    if spec.has_beside:
        return "has attention and MLP one after the other"
    for check in _CHECKS:
        reason = next(check(architecture, spec), None)
        if reason is not None:
            return reason
    return None


def _shapes(architecture: Architecture, spec: ModelSpec) -> Iterator[str]:
    sizes = {tuple(one.sizes.values()) for one in spec.layers}
    if len(sizes) > 1 and not architecture.varies:
        yield "has layers of one shape only"
    widths = {layer.channels for layer in spec.all(Attention)}
    if architecture.square and widths != {spec.hidden_size}:
        yield f"wants queries as wide as the hidden states, {spec.hidden_size}"
    if architecture.tied and not spec.tie_word_embeddings:
        yield "has no LM head apart from the embedding"
    if architecture.untied and spec.tie_word_embeddings:
        yield "has an LM head apart from the embedding"


def _block(architecture: Architecture, spec: ModelSpec) -> Iterator[str]:
    block, attention, mlp = spec.block, spec.first(Attention), spec.first(Mlp)
    if architecture.norms != spec.norms:
        yield "has its norms elsewhere"
    if architecture.qk_norm != attention.qk_norm:
        where = "no" if architecture.qk_norm is None else "other"
        yield f"has {where} norms of queries and keys" if attention.qk_norm else "normalises queries and keys"
    if architecture.is_gated != mlp.is_gated:
        yield "has a gate in its MLP" if architecture.is_gated else "has no gate in its MLP"
    if architecture.activation != mlp.activation:
        yield f"has no {mlp.activation} gate"
    biases = frozenset().union(*(layer.biases for layer in spec.layers))
    missing = sorted(biases - architecture.biases)
    if missing:
        yield f"has no biases at {', '.join(missing)}"
    if attention.softcap is not None and not architecture.attention_softcap:
        yield "does not cap attention scores"
    if architecture.always_caps and None in (attention.softcap, block.logits_softcap):
        yield "caps attention scores and logits"
    if block.logits_softcap is not None and not architecture.logits_softcap:
        yield "does not cap logits"
    if attention.query_scaling is not None and not architecture.query_scaling:
        yield "does not scale queries by position"


def _windows(architecture: Architecture, spec: ModelSpec) -> Iterator[str]:
    windows = {effective_window(spec, layer) for layer in spec.all(Attention)} - {None}
    if windows and not architecture.windows:
        yield f"has no sliding window, here of {min(filter(None, windows))} positions"
    if len(windows) > 1:
        yield "has windows of one size only"
    count = architecture.windows if architecture.windows is not True else 0
    if count and bool(windows) != (len(spec.layers) == count):
        yield f"has windows in models of {count} layers, and only in those"


def _rotation(architecture: Architecture, spec: ModelSpec) -> Iterator[str]:
    full, local = full_rope(spec), local_rope(spec)
    rotating = [layer.rope is not None for layer in spec.all(Attention)]
    expected = {
        "none": [True] * len(rotating),
        "every fourth": [(index + 1) % 4 != 0 for index in range(len(rotating))],
        "all": [full is not None] * len(rotating),
        "without window": [
            local is None or effective_window(spec, attention) is not None for attention in spec.all(Attention)
        ],
    }[architecture.unrotated]
    if rotating != expected:
        yield "rotates other layers"
    for rope in filter(None, (full, local)):
        if rope.dim != spec.head_dim and not architecture.partial:
            yield "rotates whole heads only"
    if full is not None and full.rope_type not in architecture.ropes:
        yield f"has no {full.rope_type} rotation"
    if local is not None and local != full and not (architecture.local_theta and local.rope_type == "default"):
        yield "rotates alike with and without a window"
    if full is not None and full.rope_type == "yarn":
        yield from _yarn(architecture, full)


def _yarn(architecture: Architecture, rope: RopeSpec) -> Iterator[str]:
    given = rope.parameters
    usual = {"truncate": True} | ({} if architecture.yarn_betas else {"beta_fast": 32, "beta_slow": 1})
    for key, value in usual.items():
        if given.get(key) is not None and given[key] != value:
            yield f"has yarn with {key} {value} only"


_CHECKS: tuple[Callable[[Architecture, ModelSpec], Iterator[str]], ...] = (_block, _windows, _rotation, _shapes)
