"""Reads what a model computes, dense or pruned by seap-export, from its config.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from seap_export.errors import InputError
from seap_export.model.families.check import check_sizes
from seap_export.model.families.config_reader import ConfigReader, above_zero, number, positive
from seap_export.model.families.family import PRUNED_FROM, ROTATION, Family
from seap_export.model.families.files import family_in_wrapper, family_of_model_type, wrapper_of_model_type
from seap_export.model.families.layer_reader import LayerReader, bias_switches, inputs_of_layers
from seap_export.model.families.layer_types import read_layer_types, read_windows
from seap_export.model.families.rope import SECTIONS, read_ropes
from seap_export.model.families.spec import BlockSpec, ModelSpec, NormSpec

#: Keys of a multimodal wrapper that apply to its language model.
_SHARED_KEYS = (
    "tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id", "dtype", "torch_dtype",
    "quantization_config", "quantization",
)  # fmt: skip


def language_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json of a language model, alone or in a multimodal wrapper, with all values in their usual keys."""
    wrapper = wrapper_of_model_type(config.get("model_type"))
    if wrapper is None:
        return _in_usual_keys(config)
    inner = config.get("text_config")
    if inner is None and wrapper.beside:
        inner = {key: value for key, value in config.items() if key not in ("model_type", *wrapper.beside)}
    if not isinstance(inner, Mapping):
        raise InputError("config.json: 'text_config' must describe the language model; download it again")
    family = family_in_wrapper(wrapper, str(inner.get("model_type") or wrapper.default))
    shared = {key: config[key] for key in _SHARED_KEYS if config.get(key) is not None}
    named = {"model_type": family.model_type, "architectures": [family.architecture]}
    return _in_usual_keys({**wrapper.defaults, **_without_sections(inner, family), **shared, **named})


def _without_sections(config: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """A config without the sections that rotation has for images, if the family's own class does not know them.

    A token of a text has the same position in all sections, so it is rotated as if there were none.
    """
    values = dict(config)
    for key in () if family.rotation.sections else ROTATION:
        if isinstance(values.get(key), Mapping):
            kept = {name: value for name, value in values[key].items() if name not in SECTIONS}
            values[key] = {name: "default" if value == "mrope" else value for name, value in kept.items()}
    return values


def _in_usual_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """A language model's config.json with overriding values and all sizes in their usual keys."""
    family, values = family_of_model_type(config.get("model_type")), dict(config)
    if family.key_value_heads is not None and "num_key_value_heads" not in values:
        given = {**family.defaults, **values}
        heads = positive(family.key("num_attention_heads"), given.get(family.key("num_attention_heads")))
        values["num_key_value_heads"] = family.key_value_heads.of(given, heads)
    rules, window = family.global_layers, family.window
    if rules is not None and window is not None:
        values |= rules.in_usual_keys(values, family.defaults, window.pattern or 1)
    for name, key in family.overrides.items():
        given = values.pop(key, None)
        values |= {} if given is None else {name: given}
    if family.layer_pattern:
        key, pattern = family.key("layer_types"), values.pop(family.layer_pattern, None)
        if values.get(key) is None and isinstance(pattern, str):
            values[key] = list(pattern)
        values["num_hidden_layers"] = len(values.get(key) or ())
    rule, full = family.adjusted_size, {**family.defaults, **values}
    if rule is not None and full[rule.switch]:
        size, multiple = (positive(key, full[key]) for key in ("intermediate_size", rule.multiple))
        factor = full[rule.multiplier]
        factor = None if factor is None else number(rule.multiplier, factor)
        values |= {"intermediate_size": rule.neurons(size, factor, multiple), rule.switch: False}
    return values


def model_spec(config: Mapping[str, Any]) -> ModelSpec:
    """Reads a model's config.json; of a multimodal wrapper, its language model.

    Raises:
        InputError: The family, or something that the config asks for, is not supported, or a value is missing, out of
            range or of the wrong type.
    """
    check_sizes(config)
    try:
        config = language_config(config)
        check_sizes(config)
        return _spec(ConfigReader(family_of_model_type(config.get("model_type")).variant(config), config))
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"config.json: a value has the wrong type ({reason}); download it again") from error


def dense_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json of the model that a pruned one was made from, as far as shapes are concerned."""
    before = config.get(PRUNED_FROM) or {}
    dense = {**{key: value for key, value in config.items() if key != "per_layer_config"}, **before}
    return {key: value for key, value in dense.items() if key != PRUNED_FROM}


def _spec(config: ConfigReader) -> ModelSpec:
    family = config.family
    _refuse_quantised(config)
    config.mapping(PRUNED_FROM)
    hidden_size, heads = config.positive("hidden_size"), config.positive("num_attention_heads")
    head_dim = config.positive("head_dim", hidden_size // heads)
    if family.attention_fills_hidden_size and not config.is_pruned and heads * head_dim != hidden_size:
        raise InputError(
            f"config.json: {heads} heads of {head_dim} channels are not as wide as the hidden size {hidden_size}, as "
            f"{family.architecture} needs; correct it, or download the model again"
        )
    layers = config.positive("num_hidden_layers")
    head_dims = [positive("head_dim", config.of_layer(index).get("head_dim", head_dim)) for index in range(layers)]
    windows, kinds = read_windows(config, layers), read_layer_types(config, layers)
    ropes, lenders = read_ropes(config, head_dims, windows), _lenders(config, windows)
    spec = ModelSpec(
        family=family,
        block=_block(config),
        vocab_size=config.positive("vocab_size"),
        hidden_size=hidden_size,
        norm=_norm(config),
        max_position_embeddings=config.positive("max_position_embeddings"),
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
        layers=tuple(
            LayerReader(config, index, head_dims[index], windows[index], ropes[index], lenders).layer(kinds[index])
            for index in range(layers)
        ),
        lm_head_bias=family.has_bias("lm_head", bias_switches(config)),
        position_offset=family.position_offset if "positions" in family.names else None,
        layer_inputs=inputs_of_layers(config),
    )
    config.refuse_unread()
    return spec


def _lenders(config: ConfigReader, windows: Sequence[int | None]) -> dict[int, int]:
    """For each layer that attends to the keys and values of another, which one that is."""
    rules, number_of_layers = config.family.shared_caches, len(windows)
    borrowing = 0 if rules is None else int(config.number(rules.number, 0))
    if borrowing and config.family.has_layer_inputs and not inputs_of_layers(config):
        raise InputError("config.json: transformers computes no shared caches without inputs of layers; correct it")
    first, lenders = number_of_layers - borrowing, {}
    for index in range(max(first, 0), number_of_layers):
        alike = [other for other in range(first) if (windows[other] is None) == (windows[index] is None)]
        if not alike:
            raise InputError("config.json: a layer shares the cache of none; correct it, or download the model again")
        lenders[index] = alike[-1]
    return lenders


def _refuse_quantised(config: ConfigReader) -> None:
    for key in ("quantization_config", "quantization"):
        quantised = config.mapping(key)
        if not quantised:
            continue
        method = quantised.get("quant_method", "unknown")
        if method == "mxfp4":  # its blocks are decoded when they are read
            continue
        raise InputError(
            f"the model is quantised ({method}); give an unquantised folder or a GGUF file, or remove '{key}' from "
            "config.json if its weights are not quantised any more"
        )


def _norm(config: ConfigReader) -> NormSpec:
    family = config.family
    has_bias = family.has_bias("norms", bias_switches(config))
    epsilon = above_zero(family.key("rms_norm_eps"), config.number("rms_norm_eps", 1e-6))
    return NormSpec(epsilon, family.block.norm == "layer", has_bias)


def _block(config: ConfigReader) -> BlockSpec:
    block = config.family.block
    return BlockSpec(
        embedding_multiplier=config.formula(block.embedding_multiplier) or 1.0,
        logits_multiplier=config.formula(block.logits_multiplier) or 1.0,
        logits_softcap=config.formula(block.logits_softcap),
    )
