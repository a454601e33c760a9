"""Chooses the architecture of llama.cpp that a model is written in, or says why there is none."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

from converters.gguf.architectures import (
    ARCHITECTURES,
    Architecture,
    attention_interval,
    differ_in_shape,
    effective_window,
    full_rope,
    local_rope,
)
from converters.gguf.folding import Folding
from seap_export.errors import InputError
from seap_export.model.families import (
    Attention,
    Convolution,
    DeltaNet,
    Experts,
    Mamba,
    Mlp,
    ModelSpec,
    RopeSpec,
    SharedExpert,
)
from seap_export.model.families.names import PROJECTIONS
from seap_export.model.families.sublayers import Gates

#: A least time step that llama.cpp may leave out: its tokens change a state by a thousandth.
_NO_STEP = 0.001


def choose_architecture(spec: ModelSpec) -> Architecture:
    """The architecture of the model's family if it computes the model, or the first one that does."""
    chosen = next((candidate for candidate in _candidates(spec) if _why_not(candidate, spec) is None), None)
    if chosen is None:
        raise InputError(str(refusal(spec)))
    return chosen


def refusal(spec: ModelSpec) -> str | None:
    """Why llama.cpp cannot compute this model, on one line with what to do; None: it can."""
    candidates = _candidates(spec)
    if any(_why_not(candidate, spec) is None for candidate in candidates):
        return None
    if differ_in_shape(spec):
        named = _for_any_shapes(spec)
        remedy = "use --layout uniform, or another format"
    else:
        kinds = set(map(type, spec.sublayers))
        named = [architecture for architecture in candidates if kinds <= architecture.kinds][:1] or candidates[:1]
        remedy = "use another format"
    reasons = "; ".join(f"'{architecture.name}' {_why_not(architecture, spec)}" for architecture in named)
    if "no biases" in reasons:
        remedy = f'set biases = "none" in a recipe if the refit added them, or {remedy}'
    return f"llama.cpp cannot run this {spec.family.model_type} model: its architecture {reasons}; {remedy}"


def keeps_levels(spec: ModelSpec) -> bool:
    """Whether the projections of a model, and of a pruned one, are stored as they are but for powers of two.

    What an architecture lacks is multiplied into them, and their scales are then rounded to float16.
    """
    chosen = [architecture for architecture in _candidates(spec) if _why_not(architecture, spec) is None][:1]
    factors = (
        Folding.of(architecture, spec).factor(projection)
        for architecture in (*chosen, *_for_any_shapes(spec))
        for projection in PROJECTIONS
    )
    return all(math.frexp(factor)[0] == 0.5 for factor in factors)


def _for_any_shapes(spec: ModelSpec) -> list[Architecture]:
    """The architectures that may compute the model if its layers differ in shape."""
    attention = spec.first(Attention)
    normed = attention.qk_norm is not None, attention.has_value_norm
    return [
        one for one in _candidates(spec) if one.varies and (one.qk_norm is not None, one.normalises_values) == normed
    ]


def _candidates(spec: ModelSpec) -> list[Architecture]:
    form = spec.family.gguf
    of_family = [
        architecture for architecture in ARCHITECTURES if form is not None and architecture.name == form.architecture
    ]
    return [*of_family, *(architecture for architecture in ARCHITECTURES if architecture not in of_family)]


def _why_not(architecture: Architecture, spec: ModelSpec) -> str | None:
    """Why an architecture does not compute a model, in words that follow the architecture's name; None: it does."""
    for check in _CHECKS:
        reason = next(check(architecture, spec), None)
        if reason is not None:
            return reason
    return None


def _kinds(architecture: Architecture, spec: ModelSpec) -> Iterator[str]:
    for sublayer in spec.sublayers:
        if type(sublayer) not in architecture.kinds:
            yield f"has no layer with {sublayer.noun}"
        if isinstance(sublayer, Attention) and (sublayer.gate == "channels") != architecture.has_output_gate:
            yield "has no output gate in attention" if sublayer.gate else "has an output gate in attention"
        if isinstance(sublayer, Attention) and sublayer.has_value_norm and architecture.normalises_values:
            continue
        if isinstance(sublayer, Attention) and sublayer.extra is not None and sublayer.gate != "channels":
            yield f"has no {sublayer.extra}"
        if isinstance(sublayer, Attention) and architecture.normalises_values:
            yield "normalises values"
    for kind in (Convolution, DeltaNet, Mamba):
        if kind in architecture.kinds and not any(spec.all(kind)):
            yield f"has layers with {kind.noun}"
    if spec.norm.is_centred:
        yield "has no LayerNorm"
    for layer in spec.layers:
        for before, one in pairwise(layer.sublayers):
            if one.beside and not isinstance(before, Experts) and not (architecture.are_beside and one.states):
                yield "has attention and MLP one after the other"
    for convolution in spec.all(Convolution):
        if convolution.conv_dim != spec.hidden_size:
            yield f"wants convolutions as wide as the hidden states, {spec.hidden_size}"
    for mamba in spec.all(Mamba):
        if architecture.wide_mamba and mamba.channels != 2 * spec.hidden_size:
            yield f"wants Mamba-2 twice as wide as the hidden states, {2 * spec.hidden_size}"
        if mamba.norm == "before_gate":
            yield "normalises Mamba-2 after the gate"
        if not mamba.has_kernel_bias:
            yield "has a bias in the convolution of Mamba-2"
        if mamba.least_step > _NO_STEP:
            yield "has no least time step"
    for net in spec.all(DeltaNet):
        if net.key_head_dim != net.value_head_dim:
            yield "has keys as wide as values in linear attention"
        if attention_interval(spec) is None:
            yield "has attention in each n-th layer"


def _mixtures(architecture: Architecture, spec: ModelSpec) -> Iterator[str]:
    for experts in spec.all(Experts):
        if experts.scores != "softmax" or experts.has_selection_bias or experts.scaling != 1.0:
            yield "has another router"
        if experts.output_bias or experts.gates != Gates():
            yield "has experts without biases and bounds"
        if experts.is_normalised != architecture.normalises_weights:
            yield f"{'divides' if architecture.normalises_weights else 'does not divide'} weights by their sum"
        if experts.activation != architecture.activation:
            yield f"has no {experts.activation} gate in experts"
    for shared in spec.all(SharedExpert):
        if shared.has_scale != architecture.scales_shared:
            yield f"{'scales' if architecture.scales_shared else 'does not scale'} shared experts"
    mixed = {any(isinstance(sublayer, Experts) for sublayer in layer.sublayers) for layer in spec.layers}
    if len(mixed) > 1:
        yield "has a mixture of experts in all layers or in none"


def _shapes(architecture: Architecture, spec: ModelSpec) -> Iterator[str]:
    if differ_in_shape(spec) and not architecture.varies:
        yield "has layers of one shape only"
    widths = {layer.channels for layer in spec.all(Attention)}
    if architecture.square and widths != {spec.hidden_size}:
        yield f"wants queries as wide as the hidden states, {spec.hidden_size}"
    for attention in spec.all(Attention):
        if not architecture.groups and attention.num_key_value_heads != attention.num_attention_heads:
            yield "wants as many key/value heads as query heads"
    if architecture.tied and not spec.tie_word_embeddings:
        yield "has no LM head apart from the embedding"
    if architecture.untied and spec.tie_word_embeddings:
        yield "has an LM head apart from the embedding"


def _block(architecture: Architecture, spec: ModelSpec) -> Iterator[str]:
    block, attention = spec.block, spec.first(Attention)
    if architecture.norms != spec.norms - {"post_layer_input_norm"}:
        yield "has its norms elsewhere"
    if architecture.qk_norm != attention.qk_norm:
        where = "no" if architecture.qk_norm is None else "other"
        yield f"has {where} norms of queries and keys" if attention.qk_norm else "normalises queries and keys"
    for mlp in spec.all(Mlp):
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
    for attention in spec.all(Attention):
        if attention.rope is not None and attention.rope.dim != attention.head_dim and not architecture.partial:
            yield "rotates whole heads only"
    if full is not None and full.rope_type not in architecture.ropes:
        yield f"has no {full.rope_type} rotation"
    if local is not None and local != full and not (architecture.local_theta and local.rope_type == "default"):
        yield "rotates alike with and without a window"
    if full is not None and full.rope_type == "yarn":
        yield from _yarn(architecture, full)


def _of_gemma4(architecture: Architecture, spec: ModelSpec) -> Iterator[str]:
    """Checks for Gemma 4's layers: head sizes depend on the window, and the last layers borrow keys and values."""
    if not architecture.normalises_values:
        return
    attentions = list(spec.all(Attention))
    windowed = [attention.sliding_window is not None for attention in attentions]
    if len(set(windowed)) == 1 or any(effective_window(spec, one) != one.sliding_window for one in attentions):
        yield "has layers with a window, shorter than the context, and without one"
    first = len(attentions) - sum(attention.cache_of is not None for attention in attentions)
    for one in attentions[first:]:
        if one.cache_of != first - (1 if one.sliding_window is None else 2):
            yield "attends to keys and values of other layers"


def _yarn(architecture: Architecture, rope: RopeSpec) -> Iterator[str]:
    given = rope.parameters
    usual = {"truncate": True} | ({} if architecture.yarn_betas else {"beta_fast": 32, "beta_slow": 1})
    for key, value in usual.items():
        if given.get(key) is not None and given[key] != value:
            yield f"has yarn with {key} {value} only"


_CHECKS: tuple[Callable[[Architecture, ModelSpec], Iterator[str]], ...] = (
    _kinds,
    _mixtures,
    _block,
    _windows,
    _rotation,
    _shapes,
    _of_gemma4,
)
