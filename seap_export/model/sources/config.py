"""Reads config.json and writes it so that transformers 4.57 and 5 read it the same way."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from seap_export.common.json_file import read_artifact, read_json, read_json_if_present
from seap_export.errors import InputError
from seap_export.model.families import ModelSpec, family_of_model_type, model_spec
from seap_export.model.families.family import Family

#: Keys that say nothing about the model, and that loaders add.
_NOTES = ("_name_or_path", "_model_name_or_path", "transformers_version", "_from_model_config")
#: Keys that change how a model is loaded or generates, for classifiers (a number of labels becomes a table), for what
#: quantised the weights, and for generation, which belong into generation_config.json.
_OTHER_JOBS = (
    "quantization_config", "num_labels", "id2label", "label2id", "suppress_tokens", "begin_suppress_tokens",
    "bad_words_ids", "forced_bos_token_id", "forced_eos_token_id", "max_length", "min_length",
)  # fmt: skip
#: What of a generation_config.json a variant keeps: tokens with a meaning, and how the next one is chosen. Which texts
#: may not be written, or how long they are, is for the caller to say.
_GENERATION_KEYS = frozenset({
    "bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "do_sample", "temperature", "top_k",
    "top_p", "min_p", "typical_p", "repetition_penalty", "length_penalty", "diversity_penalty", "no_repeat_ngram_size",
})  # fmt: skip
#: Keys that make transformers download and run code from the model's folder or from the hub.
_CODE_KEYS = ("auto_map", "custom_pipelines", "attn_implementation", "_attn_implementation")


def read_spec(model_folder: Path) -> ModelSpec:
    """The shapes of a model folder, as its config.json says.

    Raises:
        InputError: It is missing or damaged, or its family is not supported.
    """
    return model_spec(read_json(model_folder / "config.json"))


def end_tokens(model_folder: Path) -> frozenset[int]:
    """The tokens that end a text of a model folder, none if the model has none.

    Raises:
        ArtifactError: Its config.json is missing, or a config is damaged.
    """
    token_ids = read_artifact(model_folder / "config.json").get("eos_token_id")
    generation = model_folder / "generation_config.json"
    if generation.is_file():
        token_ids = read_artifact(generation).get("eos_token_id", token_ids)
    return frozenset(token_ids if isinstance(token_ids, list) else [] if token_ids is None else [token_ids])


def portable_generation(config: Mapping[str, Any]) -> dict[str, Any]:
    """The generation_config.json of a variant of a model with this one."""
    return {key: value for key, value in config.items() if key in _GENERATION_KEYS}


def config_damages(folder: Path, dtypes: Collection[torch.dtype]) -> Iterator[str]:
    """Finds values in the configs of a variant's model folder that no export writes; a line each, with the remedy.

    Args:
        dtypes: Those of its weights.

    Raises:
        InputError: A config is damaged.
    """
    config, generation = (folder / name for name in ("config.json", "generation_config.json"))
    values = read_json(config)
    if values.get("dtype") not in (names := [str(dtype).removeprefix("torch.") for dtype in dtypes]):
        yield f"{config}: dtype is {values.get('dtype')!r:.40}, but the weights are stored in {names[0]}; correct it"
    foreign = {config: values.keys() & {*_OTHER_JOBS, "torch_dtype"}}
    foreign[generation] = (read_json_if_present(generation) or {}).keys() - _GENERATION_KEYS - {*_NOTES}
    yield from (
        f"{path}: no export writes '{key:.80}', which may change what is generated; remove it"
        for path, keys in foreign.items()
        for key in sorted(keys)
    )


def portable_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a language model, spelled for both major versions of transformers, and without code.

    Both read `rope_theta` and `rope_scaling` at the top level; 4.57 ignores the `rope_parameters` that 5 writes,
    without a warning. A family that has defaults for `rope_parameters` is unknown to 4.57, and keeps them.
    """
    portable = {key: value for key, value in config.items() if key not in (*_NOTES, *_OTHER_JOBS, *_CODE_KEYS)}
    family = family_of_model_type(config.get("model_type"))
    new, old = portable.pop("rope_parameters", None), portable.pop("rope_scaling", None)
    if "rope_parameters" in family.defaults:
        theta = {} if family.rotation.nested else {"rope_theta": portable.pop("rope_theta", None) or 10000.0}
        portable["rope_parameters"] = {**theta, **(old or new or family.defaults["rope_parameters"])}
    elif family.rotation.layers != "none":
        portable |= _rope(portable, old or new or {}, family)
    dtype = portable.pop("torch_dtype", None) or portable.get("dtype")
    if dtype is not None:
        portable["dtype"] = dtype
    return family.meant(portable | _synonyms(portable, family))


def _rope(config: Mapping[str, Any], stated: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """The keys that say how a model rotates, given what it said under `rope_parameters` or `rope_scaling`."""
    keys, rope = {}, dict(stated)
    if family.rotation.local_theta and "full_attention" in rope:
        local = dict(rope.get("sliding_attention") or {})
        rope = dict(rope["full_attention"] or {})
        if (base := local.pop("rope_theta", None)) is not None:
            keys[family.rotation.local_theta] = base
        if local.get("rope_type", "default") != "default":
            raise InputError(
                "config.json: a scaled rotation of layers with a window is not supported; use another model"
            )
    base = family.key("rope_theta")
    keys[base] = rope.pop("rope_theta", None) or config.get(base) or 10000.0
    partial = rope.pop("partial_rotary_factor", None)
    if partial is not None:
        keys[family.key("partial_rotary_factor")] = partial
    rope_type = rope.pop("rope_type", None) or rope.pop("type", None) or "default"
    rope.pop("type", None)
    if rope_type in ("su", "longrope") or "short_factor" in rope:
        keys |= _longrope(config, rope, family)
    else:
        is_assumed = rope_type == "default" and "rope_scaling" not in family.defaults
        keys["rope_scaling"] = None if is_assumed else {"rope_type": rope_type, **rope}
    return keys


def _longrope(config: Mapping[str, Any], rope: dict[str, Any], family: Family) -> dict[str, Any]:
    """The keys of a rotation with tables for short and long inputs.

    4.57 has the original length at the top level; 5 does so only where the family's config class has it, and prefers a
    given `factor` to the ratio of both lengths, so what that implies is given instead. The first families with this
    rotation take exactly three parameters in 4.57, one of them called `type`.
    """
    key = "original_max_position_embeddings"
    original = config.get(key) or rope.pop(key, None) or config["max_position_embeddings"]
    rope = {name: rope[name] for name in ("short_factor", "long_factor", "attention_factor", "factor") if name in rope}
    factor = rope.pop("factor", None)
    if factor is not None and factor * original != config["max_position_embeddings"]:
        rope.setdefault(
            "attention_factor", math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
        )
    if key not in family.defaults:
        rope[key] = original
    return {key: original, "rope_scaling": {"type": "longrope", **rope}}


def _synonyms(config: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """The lists of layer types, with the first of several words that mean the same, which both versions know.

    Where a word may also say that a layer has a window, none means the same as another.
    """
    if family.window is not None:
        return {}
    first = {kinds: word for word, kinds in reversed([*family.layer_types.items()])}
    usual = {word: first[kinds] for word, kinds in family.layer_types.items()}
    said = {key: config[key] for key in ("layer_types", "layers_block_type") if isinstance(config.get(key), list)}
    return {key: [usual.get(word, word) for word in words] for key, words in said.items()}
