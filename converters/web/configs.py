"""The JSON files that transformers.js reads beside the graph."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converters.small_files import Content, copies
from converters.web.precisions import dtype_of, file_name
from seap_export.common.json_file import read_json, read_json_if_present
from seap_export.model.families import ModelSpec, model_spec
from seap_export.model.sources.tokenizer import MODEL_INPUTS, read_tokenizer_config
from seap_export.runtime.chat import DEFAULT_TEMPLATE, template_sources
from seap_export.runtime.files import encode, load_tokenizer

#: Keys of a tokenizer_config.json that name code, or contradict tokenizer.json.
_DROPPED = ("auto_map", "add_eos_token")
_LARGEST = ("intermediate_size", "num_attention_heads", "num_key_value_heads")
_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")


def web_files(model_folder: Path, precision: str, chunks: int) -> dict[str, Content]:
    """The contents of all files but the graph and its data, by name."""
    config = read_json(model_folder / "config.json")
    return {
        "config.json": _config(model_spec(config), config, precision, chunks),
        "generation_config.json": _generation_config(model_folder, config),
        "tokenizer_config.json": _tokenizer_config(model_folder),
        **copies(model_folder, "tokenizer.json"),
    }


def _config(spec: ModelSpec, config: Mapping[str, Any], precision: str, chunks: int) -> dict[str, Any]:
    """The content of config.json.

    Every family is called a Llama: transformers.js takes from the type that caches are called `past_key_values.N.key`,
    for N up to the number of layers, and reads their shapes from the graph, which has all that families differ in. One
    with states of a fixed size is called a Falcon-H1, whose layers have `past_conv.N` and `past_ssm.N`, too; states
    that the graph lacks do not count. Head counts and widths are the largest of any layer, for readers.
    """
    layers, states = spec.layers, {state for sublayer in spec.sublayers for state in sublayer.states}
    name, model_type = ("Llama", "llama") if states == {"key", "value"} else ("FalconH1", "falcon_h1")
    largest = {key: max(layer.sizes.get(key, 0) for layer in layers) for key in _LARGEST}
    sizes = {
        **{key: size for key, size in largest.items() if size},
        "head_dim": spec.head_dim,
        "hidden_size": spec.hidden_size,
        "max_position_embeddings": spec.max_position_embeddings,
        "num_hidden_layers": len(layers),
        "vocab_size": spec.vocab_size,
    }
    return {
        "architectures": [f"{name}ForCausalLM"],
        "model_type": model_type,
        **{key: config[key] for key in _SPECIAL if config.get(key) is not None},
        **dict(sorted(sizes.items())),
        "transformers.js_config": {
            "dtype": dtype_of(precision),
            "use_external_data_format": {file_name(precision): chunks},
        },
    }


def _generation_config(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The content of generation_config.json, without nulls: transformers.js takes a null for "no such token"."""
    given = read_json_if_present(folder / "generation_config.json") or {}
    special = {key: config[key] for key in _SPECIAL if config.get(key) is not None}
    return {**special, **{key: value for key, value in given.items() if value is not None}}


def _tokenizer_config(folder: Path) -> dict[str, Any]:
    """The content of tokenizer_config.json.

    The class is the one that takes tokenizer.json as it is. The chat template is in this file, because transformers.js
    reads no other. Its pipeline adds special tokens to a text only if `add_bos_token` says so, which here says what
    tokenizer.json does.
    """
    settings = {key: value for key, value in read_tokenizer_config(folder).items() if key not in _DROPPED}
    templates = template_sources(folder, settings)
    listed: Any = [{"name": name, "template": template} for name, template in templates.items()]
    template = templates.get(DEFAULT_TEMPLATE) if len(templates) == 1 else listed
    return {
        "clean_up_tokenization_spaces": False,  # transformers.js would
        "model_input_names": MODEL_INPUTS,
        **settings,
        **({"chat_template": template} if template else {}),
        "add_bos_token": bool(encode(load_tokenizer(folder), "")),
        "padding_side": "right",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
