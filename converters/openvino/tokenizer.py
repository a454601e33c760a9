"""The files beside an IR: the tokenizer, also as graphs of OpenVINO, and the configs that its runtimes read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from converters.openvino.node_names import settle_names
from converters.openvino.packages import require
from converters.small_files import Content, copies, write_files
from seap_export.errors import EnvironmentFailure, InputError, in_one_line
from seap_export.model.families import model_spec
from seap_export.model.sources.tokenizer import read_tokenizer_config, tokenizer_names, without_code
from seap_export.pruning.rounding.note import without_dtype

TOKENIZER_FILE = "openvino_tokenizer.xml"
DETOKENIZER_FILE = "openvino_detokenizer.xml"


def write_tokenizer(model_folder: Path, folder: Path) -> None:
    """Writes the tokenizer's files, its graphs, config.json and generation_config.json."""
    write_files(folder, _tokenizer(model_folder))
    _write_graphs(folder)
    write_files(folder, _configs(model_folder))


def _tokenizer(model_folder: Path) -> dict[str, Content]:
    config = without_code(read_tokenizer_config(model_folder), name_class=True)
    return {**copies(model_folder, *tokenizer_names(model_folder)), "tokenizer_config.json": config}


def _configs(model_folder: Path) -> dict[str, Content]:
    """A config.json that names the family's own class, so that it is read without code that comes with a model.

    Runtimes take shapes from the graph, and from here the family and the special tokens. A rounded model, from which
    int4 is written, has another dtype than the one that it was made from.
    """
    config = without_dtype(model_folder)
    family = model_spec(config).family
    config = {key: value for key, value in config.items() if key != "auto_map"}
    return {
        "config.json": {**config, "architectures": [family.architecture], "model_type": family.model_type},
        **copies(model_folder, "generation_config.json"),
    }


def tokenizer_graphs(folder: Path) -> Sequence[Any]:
    """A model folder's tokenizer as graphs of OpenVINO: from texts to tokens, and back."""
    converter = require("openvino_tokenizers")
    from transformers import PreTrainedTokenizerFast

    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        graphs: Sequence[Any] = converter.convert_tokenizer(tokenizer, with_detokenizer=True)
    except Exception as error:  # of several packages; what it does not know it refuses with any of them
        raise InputError(
            f"openvino-tokenizers cannot convert this tokenizer ({in_one_line(error)}); use another format"
        ) from error
    return graphs


def _write_graphs(folder: Path) -> None:
    ov, graphs = require("openvino"), tokenizer_graphs(folder)
    try:
        for graph, name in zip(graphs, (TOKENIZER_FILE, DETOKENIZER_FILE), strict=True):
            settle_names(graph, every=True)
            ov.serialize(graph, folder / name)
    except RuntimeError as error:
        raise EnvironmentFailure(
            f"{folder}: cannot write the tokenizer's graphs ({in_one_line(error)}); free disk space or check the "
            "permissions"
        ) from error
