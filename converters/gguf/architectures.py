"""Describes what each architecture of llama.cpp computes, so that one can be found that computes a model.

llama.cpp builds one graph per architecture, with few choices in its metadata. A model is written in the architecture
of its family where that computes it, or in another one that does. Where layers differ in shape, that is `deci`, which
is Llama with sizes of each layer's own and biases everywhere, or `openelm`, with norms of queries and keys.

Source: https://github.com/ggml-org/llama.cpp at 0c1e57098, src/models/*.cpp and src/llama-model.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

from seap_export.model.families import (
    Attention,
    Convolution,
    DeltaNet,
    Experts,
    LayerInput,
    Mamba,
    Mlp,
    ModelSpec,
    RopeSpec,
    SharedExpert,
    Sublayer,
)
from seap_export.model.families.names import DENSE, PROJECTIONS, QKV, Norm, Projection
from seap_export.model.families.sublayers import Activation, QkNorm

_USUAL_NORMS: frozenset[Norm] = frozenset({"input_layernorm", "post_attention_layernorm"})
_NO_NAMES: Mapping[str, str] = MappingProxyType({})
_UNSCALED = frozenset({"default", "linear", "yarn"})
#: The rotations of `_UNSCALED`, and those that need a tensor of factors.
_ALL_ROPES = frozenset({*_UNSCALED, "llama3", "longrope"})


@dataclass(frozen=True)
class Architecture:
    """An architecture of llama.cpp: what its layers compute, beyond the sizes that its metadata give.

    Attributes:
        name: Its name, the value of `general.architecture`.
        has_output_gate: Whether attention has an output gate.
        normalises_values: Whether attention is Gemma 4's: it normalises values and does not scale scores, its heads
            may be larger in layers without a window, where keys may serve as values, and the last layers may attend to
            keys and values of the last ones before them.
        norms: The norms of the residual stream.
        qk_norm: How queries and keys are normalised; None: not at all.
        activation: Activation function of the gate, or of an MLP without one.
        is_gated: Whether the MLP has a gate.
        neighbours: Whether the channels of a rotated pair are neighbours; otherwise half of those rotated lie between.
        partial: Whether less than a whole head can be rotated.
        biases: The projections that can have a bias.
        fused: Whether it wants projections of one kind (`qkv_proj`, `gate_up_proj`) as one tensor.
        norm_names: GGUF names of norms where they differ from the usual ones, by plain name.
        lists: Metadata keys of sizes that are given for each layer, as 0 where it lacks the part.
        are_beside: Whether attention and Mamba-2 of a layer read the same input.
        varies: Whether heads, KV heads and neurons can differ between layers.
        square: Whether queries must be as wide as the hidden states.
        groups: Whether there can be fewer key/value heads than query heads.
        tied: Whether the LM head must be the embedding.
        untied: Whether the LM head must not be the embedding.
        ropes: The rotations that it computes.
        windows: Whether layers can attend within a window; a number: only in models of so many layers, which must.
        needs_window: Whether at least one layer must have a window.
        local_theta: Whether layers with a window rotate by a base of their own, unscaled.
        unrotated: Which layers do not rotate.
        scaled_by_keys: Whether metadata give the factors on embeddings, attention, residuals and logits.
        scales_embeddings: Whether embeddings are multiplied by the root of the hidden size.
        wide_scale: In models of so many layers, attention is scaled by hidden size / heads in place of the head size.
        attention_softcap: Whether attention scores can be capped.
        logits_softcap: Whether logits can be capped.
        always_caps: Whether attention scores and logits must be capped.
        query_scaling: Whether queries can be scaled by position.
        epsilons: Metadata keys that must give the epsilon of the norms.
        wide_mamba: Whether Mamba-2 must be twice as wide as the hidden states.
        yarn_betas: Whether yarn's limits can be given; otherwise they are 32 and 1.
        normalises_weights: Whether the weights of a token's experts are divided by their sum.
        scales_shared: Whether a shared expert is scaled by a product of its input.
    """

    name: str
    kinds: frozenset[type[Sublayer]] = frozenset({Attention, Mlp})
    has_output_gate: bool = False
    normalises_values: bool = False
    norms: frozenset[Norm] = _USUAL_NORMS
    qk_norm: QkNorm | None = None
    activation: Activation = "silu"
    is_gated: bool = True
    neighbours: bool = False
    partial: bool = False
    biases: frozenset[Projection] = frozenset(QKV)
    fused: tuple[str, ...] = ()
    norm_names: Mapping[str, str] = field(default_factory=lambda: _NO_NAMES)
    lists: tuple[str, ...] = ()
    are_beside: bool = False
    varies: bool = False
    square: bool = False
    groups: bool = True
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
    epsilons: tuple[str, ...] = ("attention.layer_norm_rms_epsilon",)
    wide_mamba: bool = False
    yarn_betas: bool = False
    normalises_weights: bool = True
    scales_shared: bool = False


_EVERYWHERE = frozenset(PROJECTIONS)
_AFTER: frozenset[Norm] = frozenset({"post_self_attn_layernorm", "post_mlp_layernorm"})
_AROUND = _USUAL_NORMS | _AFTER
_GEMMA = Architecture("gemma", activation="gelu_tanh", scales_embeddings=True, tied=True)
_LLAMA = Architecture("llama", neighbours=True, biases=_EVERYWHERE, ropes=_ALL_ROPES)
_GRANITE = Architecture(
    "granite", neighbours=True, biases=_EVERYWHERE, ropes=_ALL_ROPES, scaled_by_keys=True, unrotated="all"
)
_QWEN35 = Architecture(
    "qwen35",
    kinds=frozenset({Attention, DeltaNet, Mlp}),
    has_output_gate=True,
    qk_norm="before_rotation",
    partial=True,
    biases=frozenset(),
    fused=("q_gate_proj",),
    norm_names={"post_attention_layernorm": "post_attention_norm.weight"},
)
#: All architectures, the general ones first.
ARCHITECTURES: tuple[Architecture, ...] = (
    _LLAMA,
    replace(_LLAMA, kinds=frozenset({Attention, Experts}), biases=frozenset(QKV)),
    Architecture("deci", neighbours=True, biases=_EVERYWHERE, ropes=_ALL_ROPES, varies=True),
    Architecture(
        "openelm", qk_norm="before_rotation", biases=frozenset(), fused=("qkv_proj",), varies=True, tied=True
    ),
    Architecture("arcee", activation="relu2", is_gated=False, neighbours=True, ropes=_ALL_ROPES),
    Architecture("qwen2", square=True),
    Architecture("qwen3", qk_norm="before_rotation"),
    Architecture(
        "qwen2moe",
        kinds=frozenset({Attention, Experts, SharedExpert}),
        square=True,
        normalises_weights=False,
        scales_shared=True,
        untied=True,
    ),
    Architecture("qwen3moe", kinds=frozenset({Attention, Experts}), qk_norm="before_rotation", biases=frozenset()),
    Architecture(
        "olmoe",
        kinds=frozenset({Attention, Experts}),
        qk_norm="over_all_heads",
        square=True,
        groups=False,
        biases=frozenset(),
        normalises_weights=False,
        untied=True,
    ),
    _QWEN35,
    replace(
        _QWEN35, name="qwen35moe", kinds=frozenset({Attention, DeltaNet, Experts, SharedExpert}), scales_shared=True
    ),
    Architecture(
        "lfm2",
        kinds=frozenset({Attention, Convolution, Mlp}),
        qk_norm="before_rotation",
        square=True,
        biases=frozenset(),
        fused=("in_proj",),
        norm_names={"norm": "token_embd_norm.weight"},
        lists=("attention.head_count_kv",),
    ),
    Architecture("seed_oss", norm_names={"post_attention_layernorm": "post_attention_norm.weight"}),
    Architecture("ernie4_5", neighbours=True, biases=frozenset({*QKV, "o_proj"})),
    _GRANITE,
    replace(_GRANITE, name="granitemoe", kinds=frozenset({Attention, Experts, Mlp}), biases=frozenset(QKV)),
    replace(
        _GRANITE,
        name="granitehybrid",
        kinds=frozenset({Attention, Mamba, Experts, Mlp}),
        fused=("mamba_in_proj",),
        wide_mamba=True,
        biases=frozenset(QKV),
        lists=("attention.head_count_kv",),
    ),
    Architecture(
        "falcon-h1",
        kinds=frozenset({Attention, Mamba, Mlp}),
        fused=("mamba_in_proj",),
        biases=frozenset(DENSE),
        norm_names={"post_attention_layernorm": "ffn_norm"},
        are_beside=True,
    ),
    Architecture(
        "nemotron_h",
        kinds=frozenset({Attention, Mamba, Mlp}),
        norms=frozenset({"input_layernorm"}),
        activation="relu2",
        is_gated=False,
        fused=("mamba_in_proj",),
        biases=frozenset({"up_proj", "down_proj"}),
        epsilons=("attention.layer_norm_epsilon", "attention.layer_norm_rms_epsilon"),
        lists=("attention.head_count_kv", "feed_forward_length"),
        unrotated="all",
    ),
    Architecture(
        "mistral3", neighbours=True, biases=_EVERYWHERE, ropes=_ALL_ROPES, query_scaling=True, yarn_betas=True
    ),
    Architecture("smollm3", neighbours=True, unrotated="every fourth"),
    Architecture(
        "phi3", partial=True, fused=("qkv_proj", "gate_up_proj"), square=True, ropes=_UNSCALED | {"longrope"}
    ),
    Architecture("chatglm", neighbours=True, partial=True, fused=("gate_up_proj",), square=True),
    Architecture("glm4", norms=_AROUND, neighbours=True, partial=True, fused=("gate_up_proj",)),
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
        norms=_AROUND,
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
        norms=_AROUND,
        qk_norm="before_rotation",
        activation="gelu_tanh",
        scales_embeddings=True,
        windows=True,
        local_theta=True,
        wide_scale=62,
        logits_softcap=True,
    ),
    Architecture(
        "gemma4",
        kinds=frozenset({Attention, Mlp, LayerInput}),
        normalises_values=True,
        norms=_AROUND,
        qk_norm="before_rotation",
        activation="gelu_tanh",
        biases=frozenset(),
        varies=True,
        scales_embeddings=True,
        ropes=frozenset({"proportional"}),
        windows=True,
        local_theta=True,
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


def differ_in_shape(spec: ModelSpec) -> bool:
    """Whether two layers have sublayers of one kind with other sizes."""
    return len({(type(one), *one.sizes.values()) for one in spec.sublayers}) > len(set(map(type, spec.sublayers)))


def attention_interval(spec: ModelSpec) -> int | None:
    """n if each n-th layer has attention and no other; None: there is no such n."""
    attend = [any(isinstance(sublayer, Attention) for sublayer in layer.sublayers) for layer in spec.layers]
    interval = attend.index(True) + 1
    return interval if attend == [(index + 1) % interval == 0 for index in range(len(attend))] else None
