"""Makes the config.json of a shrunk model."""

from __future__ import annotations

from typing import Any

from seap_export.model.families import (
    Attention,
    LayerSpec,
    ModelSpec,
    SharedExpert,
    is_pruned,
    model_spec,
)
from seap_export.model.families.config_reader import LOGIT_SCALE, WRITTEN_KEYS, class_settings
from seap_export.model.families.family import PRUNED_FROM, PRUNED_PREFIX, Family
from seap_export.model.families.names import Projection
from seap_export.model.sources.source import Source
from seap_export.pruning.plan.settings import Layout


def shrunk_config(source: Source, spec: ModelSpec, layout: Layout) -> dict[str, Any]:
    """The config.json of a shrunk model of these shapes: the dense one with what pruning changed.

    If the source was pruned before, layer by layer, `PRUNED_FROM` holds what its layers were.
    """
    earlier = source.config["per_layer_config"] if _was_pruned(source) else None
    left_out = {"auto_map", PRUNED_FROM, *(() if earlier is None else WRITTEN_KEYS - {LOGIT_SCALE})}
    changed = _plain(source, spec) if layout == "uniform" else _per_layer(source, spec)
    if earlier is not None:
        changed[PRUNED_FROM] = {**changed.get(PRUNED_FROM, {}), "per_layer_config": earlier}
    return {
        **{key: value for key, value in source.config.items() if key not in left_out},
        **({} if layout == "uniform" and spec.family.head_dim_is_derived else {"head_dim": _head_dim(source)}),
        "dtype": str(source.dtype).removeprefix("torch."),
        **changed,
    }


def _was_pruned(source: Source) -> bool:
    """Whether the source was pruned before, with a shape of its own for each layer."""
    return is_pruned(source.config) and source.config.get("per_layer_config") is not None


def _dense(source: Source) -> ModelSpec:
    """The model that the keys outside of the layers are about: the source, or what it was before it was pruned.

    Families whose layers differ by themselves say every size in the layers.
    """
    if not _was_pruned(source) or source.spec.family.global_layers is not None:
        return source.spec
    return model_spec(
        {key: value for key, value in source.config.items() if key not in ("per_layer_config", PRUNED_FROM)}
    )


def _plain(source: Source, spec: ModelSpec) -> dict[str, Any]:
    """The keys that the family's own class reads, and the dense model's values in their place."""
    family, dense = spec.family, _dense(source)
    biases = zip(spec.layers, dense.layers, strict=True)
    added = frozenset[Projection]().union(*(layer.biases - whole.biases for layer, whole in biases))
    switches = {str(family.biases[projection]) for projection in added}
    return {
        **_all_sizes(family, spec),
        **dict.fromkeys(switches, True),
        "architectures": [family.architecture],
        "model_type": family.model_type,
        PRUNED_FROM: {**_all_sizes(family, dense), **dict.fromkeys(switches, False)},
    }


def _per_layer(source: Source, spec: ModelSpec) -> dict[str, Any]:
    """The keys that the classes that travel with the model read: each layer's own shape."""
    family = spec.family
    stem = family.stem
    per_layer: dict[str, dict[str, Any]] = {}
    unnamed: dict[str, Any] = {}  # sizes that the family's configs leave out, without which transformers reads none
    for index, (layer, dense) in enumerate(zip(spec.layers, _dense(source).layers, strict=True)):
        had = _sizes(family, dense)
        values: dict[str, Any] = {key: size for key, size in _sizes(family, layer).items() if size != had[key]}
        if family.global_layers is not None:  # the dense model has such values, too
            sizes = {**source.config["per_layer_config"].get(str(index), {}), **_sizes(family, layer)}
            values = {key: size for key, size in sizes.items() if size != source.config.get(key)}
        values |= {f"{name}_bias": True for name in family.outputs if name in layer.biases - dense.biases}
        if values:
            per_layer[str(index)] = values
        unnamed |= {key: size for key, size in had.items() if key in values and key not in source.config}
    return {
        **unnamed,
        "architectures": [f"Seap{stem}ForCausalLM"],
        "auto_map": {
            "AutoConfig": f"configuration_seap.Seap{stem}Config",
            "AutoModel": f"modeling_seap.Seap{stem}Model",
            "AutoModelForCausalLM": f"modeling_seap.Seap{stem}ForCausalLM",
        },
        "model_type": PRUNED_PREFIX + family.model_type,
        **({} if family.shared_caches is None else {family.shared_caches.doubled: False}),  # each layer says its size
        **_for_vllm(source, spec),
        **{f"{name}_bias": False for name in family.outputs},  # unless per_layer_config says otherwise
        "per_layer_config": per_layer,
        **class_settings(family),
        **{key: size for shared in source.spec.all(SharedExpert) for key, size in shared.sizes.items()},
    }


def _head_dim(source: Source) -> int:
    """The size of a head that `per_layer_config` may replace."""
    return int(source.config.get("head_dim") or source.spec.head_dim)


def _for_vllm(source: Source, spec: ModelSpec) -> dict[str, Any]:
    """The keys that vLLM's class around models of transformers goes by, whatever the family's own class does."""
    values: dict[str, Any] = {}
    if spec.block.logits_multiplier != 1.0:
        values[LOGIT_SCALE] = spec.block.logits_multiplier
    if spec.first(Attention).softcap is None and "attn_logit_softcapping" in source.config:
        values["attn_logit_softcapping"] = None  # Gemma 3 has the key and no cap
    return values


def _sizes(family: Family, layer: LayerSpec) -> dict[str, int]:
    """The sizes of a layer by the family's own keys."""
    sizes = (pair for sublayer in layer.sublayers for pair in {**sublayer.sizes, **sublayer.derived_sizes}.items())
    return {family.key(name): size for name, size in sizes}


def _all_sizes(family: Family, spec: ModelSpec) -> dict[str, int]:
    """The sizes of all layers, which are alike, by the family's own keys."""
    return {key: size for layer in spec.layers for key, size in _sizes(family, layer).items()}
