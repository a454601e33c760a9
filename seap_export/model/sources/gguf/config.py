"""Builds a config.json from the metadata of a GGUF file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seap_export.errors import InputError
from seap_export.model.families.config_reader import PROJECTION_PATHS, ConfigReader, class_settings
from seap_export.model.families.family import PRUNED_PREFIX
from seap_export.model.sources.gguf.file import GgufFile
from seap_export.model.sources.gguf.reader import GgufReader, projections_of
from seap_export.model.sources.gguf.rope import rope_keys
from seap_export.model.sources.weights import main_dtype

#: The value that metadata must have where they are given, and the part of the model that is not supported otherwise.
_REQUIRED = {
    "attention.causal": (True, "bidirectional attention"),
    "expert_count": (0, "mixtures of experts"),
    "nextn_predict_layers": (0, "layers that predict further tokens"),
    "rope.scaling.finetuned": (True, "attention without rotation"),
}
#: Metadata that change nothing: of parts that would be refused, of other scalings than the model's, or descriptions.
_HARMLESS = (
    "attention.layer_norm_epsilon", "expert_", "pooling_type", "rope.scaling.original_context_length",
    "rope.scaling.yarn_", "ssm.", "tensor_data_layout", "vocab_size",
)  # fmt: skip


def gguf_config(file: GgufFile) -> dict[str, Any]:
    """Builds the config.json of a GGUF file, in the spelling that transformers 4.57 and 5 share."""
    family = file.family
    for key, (value, part) in _REQUIRED.items():
        if file.get(key, value) != value:
            raise InputError(
                f"{file.path}: '{key}' is {file.get(key)!r:.40}: {part} are not supported; give another file"
            )
    if "token_embd.weight" not in file.tensors:
        raise InputError(f"{file.path}: no token embedding; give the GGUF file of a whole language model")
    hidden_size, heads = file.whole("embedding_length"), max(file.by_layer("attention.head_count"))
    head_dim = file.whole("attention.key_length", hidden_size // heads)
    if file.whole("attention.value_length", head_dim) != head_dim:
        raise InputError(f"{file.path}: values of another width than keys are not supported; give another model")
    config = {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "vocab_size": file.tensors["token_embd.weight"].shape[0],
        "hidden_size": hidden_size,
        "num_hidden_layers": file.layers,
        **{name: max(sizes) for name, sizes in _sizes(file).items()},
        "head_dim": head_dim,
        "max_position_embeddings": file.whole("context_length"),
        "rms_norm_eps": file.number("attention.layer_norm_rms_epsilon", 1e-6),
        **rope_keys(file, head_dim),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "hidden_act": family.defaults.get(family.key("hidden_act"), "silu"),
        **_windows(file),
        **{key: file.number(name, 0.0) for key, name in file.form.keys.items() if file.get(name) is not None},
        **_bias_switches(file),
        **_special_ids(file),
        "dtype": str(main_dtype(GgufReader(file))).removeprefix("torch."),
    }
    config |= _compensation(file)
    _refuse_unread(file)
    return {family.key(key): value for key, value in {**_constants(file, config), **config}.items()}


def _windows(file: GgufFile) -> dict[str, Any]:
    """The keys of config.json for the sliding window, and for the layers that have one."""
    rule = file.family.window
    window = file.get("attention.sliding_window", file.form.constants.get("sliding_window")) or None
    if rule is None or (rule.layers == "layer_types" and rule.pattern is None):
        if window:
            raise InputError(
                f"{file.path}: sliding-window attention is not supported in a GGUF file of {file.form.architecture}; "
                "give the Hugging Face folder"
            )
        return {}
    if rule.layers == "all":
        return {"sliding_window": window}
    pattern, number = file.get("attention.sliding_window_pattern", rule.pattern), file.layers
    if isinstance(pattern, list):
        slides = [bool(slides_here) for slides_here in pattern]
    else:
        period = file.whole("attention.sliding_window_pattern", rule.pattern)
        slides = [(layer + 1) % period != 0 for layer in range(number)]
    kinds = ["sliding_attention" if slides_here and window else "full_attention" for slides_here in slides]
    return {"sliding_window": window, "layer_types": kinds}


def _constants(file: GgufFile, config: Mapping[str, Any]) -> dict[str, Any]:
    """The values that llama.cpp assumes for keys that the metadata do not give, by the usual keys of config.json."""
    reader, constants = ConfigReader(file.family, config), {}
    for key, constant in file.form.constants.items():
        value = constant
        if isinstance(value, Mapping):
            value = value.get(str(config["num_hidden_layers"]), value["other"])
        if isinstance(value, str):
            value = config[value] if value in config else reader.formula(value)
        constants[key] = value
    return constants


def _bias_switches(file: GgufFile) -> dict[str, bool]:
    """The config keys that enable biases, derived from the tensors in the file."""
    biases = [name for name in file.tensors if name.startswith("blk.") and name.endswith(".bias")]
    present = {projection for name in biases for projection in projections_of(file, name)}
    switches: dict[str, bool] = {}
    for key in filter(lambda key: isinstance(key, str), file.family.biases.values()):
        switched = {projection for projection, switch in file.family.biases.items() if switch == key}
        # what refits add is no sign of a switch that others share
        switches[str(key)] = bool((switched - PROJECTION_PATHS.keys() or switched) & present)
    return switches


def _sizes(file: GgufFile) -> dict[str, list[int]]:
    """The sizes of all layers by their usual names."""
    heads = file.by_layer("attention.head_count")
    return {
        "num_attention_heads": heads,
        "num_key_value_heads": file.by_layer("attention.head_count_kv", heads),
        "intermediate_size": file.by_layer("feed_forward_length"),
    }


def _compensation(file: GgufFile) -> dict[str, Any]:
    """The keys of a model whose layers differ in shape or in biases that refits have added; none for others."""
    by_layer, switches, per_layer = _sizes(file), _bias_switches(file), {}
    largest = {name: max(sizes) for name, sizes in by_layer.items()}
    for layer in range(file.layers):
        layer_sizes = {name: sizes[layer] for name, sizes in by_layer.items()}
        values: dict[str, Any] = {
            file.family.key(name): size for name, size in layer_sizes.items() if size != largest[name]
        }
        for projection in file.family.outputs:
            stem = "attn_output" if projection == "o_proj" else "ffn_down"
            is_switched = switches.get(str(file.family.biases.get(projection)), False)
            if f"blk.{layer}.{stem}.bias" in file.tensors and not is_switched:
                values[f"{projection}_bias"] = True
        if values:
            per_layer[str(layer)] = values
    if not per_layer:
        return {}
    return {
        "model_type": PRUNED_PREFIX + file.family.model_type,
        **{f"{name}_bias": False for name in file.family.outputs},
        "per_layer_config": per_layer,
        **class_settings(file.family),
    }


def _special_ids(file: GgufFile) -> dict[str, int | None]:
    keys = {"bos_token_id": "bos_token_id", "eos_token_id": "eos_token_id", "pad_token_id": "padding_token_id"}
    return {key: file.metadata.get(f"tokenizer.ggml.{source}") for key, source in keys.items()}


def _refuse_unread(file: GgufFile) -> None:
    """Refuses what would change the model's results unnoticed."""
    for key in file.unread():
        if not key.startswith(_HARMLESS):
            raise InputError(
                f"{file.path}: the metadata '{key}' are not known for {file.form.architecture}, so what they change "
                "would be lost; give the Hugging Face folder"
            )
