"""The files beside an IR: the tokenizer, also as graphs of OpenVINO, and the configs that its runtimes read."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converters.openvino.node_names import settle_names
from converters.openvino.packages import require
from seap_export.errors import EnvironmentFailure, InputError
from seap_export.families import Family, model_spec
from seap_export.json_file import read_json, write_json
from seap_export.sources.tokenizer import copy_tokenizer, drop_tokenizer_code, name_tokenizer_class

__all__ = ["DETOKENIZER_FILE", "TOKENIZER_FILE", "stock_config", "write_tokenizer"]

TOKENIZER_FILE = "openvino_tokenizer.xml"
DETOKENIZER_FILE = "openvino_detokenizer.xml"
_GENERATION = "generation_config.json"


def write_tokenizer(model_folder: Path, folder: Path) -> None:
    """Writes the tokenizer's files, its graphs, config.json and generation_config.json.

    Raises:
        InputError: The tokenizer is missing or damaged, or openvino-tokenizers cannot convert it.
        EnvironmentFailure: openvino-tokenizers is missing, or cannot write.
    """
    copy_tokenizer(model_folder, folder)
    drop_tokenizer_code(folder)
    name_tokenizer_class(folder, always=True)
    _write_graphs(folder)
    config = read_json(model_folder / "config.json")
    write_json(folder / "config.json", stock_config(config), indent=2)
    if (model_folder / _GENERATION).is_file():
        shutil.copyfile(model_folder / _GENERATION, folder / _GENERATION)


def stock_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json that names the family's own class, so that it is read without code that comes with a model.

    Runtimes take shapes from the graph, and from here the family and the special tokens.
    """
    family: Family = model_spec(config).family
    kept = {key: value for key, value in config.items() if key != "auto_map"}
    return {**kept, "architectures": [family.architecture], "model_type": family.model_type}


def _write_graphs(folder: Path) -> None:
    converter, ov = require("openvino_tokenizers"), require("openvino")
    from transformers import PreTrainedTokenizerFast

    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        graphs = converter.convert_tokenizer(tokenizer, with_detokenizer=True)
    except Exception as error:  # of several packages; what it does not know it refuses with any of them
        reason = " ".join(str(error).split())
        raise InputError(
            f"{folder}: openvino-tokenizers cannot convert this tokenizer ({reason:.160}); use another format"
        ) from error
    try:
        for graph, name in zip(graphs, (TOKENIZER_FILE, DETOKENIZER_FILE), strict=True):
            settle_names(graph, every=True)
            ov.serialize(graph, folder / name)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise EnvironmentFailure(
            f"{folder}: cannot write the tokenizer's graphs ({reason:.160}); free disk space or check the permissions"
        ) from error
