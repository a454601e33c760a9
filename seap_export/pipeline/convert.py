"""The conversion step: a model folder becomes a folder that ONNX Runtime and ONNX Runtime GenAI run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from converters.decoder import Logits
from converters.dialects import DialectName
from converters.genai_config import genai_config
from converters.onnx_writer import write_onnx
from converters.precision import Precision
from seap_export.families import model_spec
from seap_export.sources.config import read_json
from seap_export.sources.tokenizer import copy_tokenizer, pad_on_the_right

__all__ = ["GENAI_CONFIG", "convert_folder"]

GENAI_CONFIG = "genai_config.json"
_FLOAT32 = Precision()


def convert_folder(
    model_folder: Path,
    onnx_folder: Path,
    on_layer: Callable[[int], None] = lambda layer: None,
    *,
    precision: Precision = _FLOAT32,
    dialect: DialectName = "fused",
    logits: Logits = "all",
) -> None:
    """Writes the ONNX form of a model folder, dense or pruned, into `onnx_folder`, which exists.

    Beside the graph and its data: the tokenizer, padding on the right, and genai_config.json.

    Args:
        model_folder: config.json, safetensors files, the tokenizer.
        onnx_folder: Receives the files.
        on_layer: Called with a layer's index when the last of its weights is written.
        precision: What the graph computes in and stores.
        dialect: The operators that it is written in.
        logits: Whether the graph gives those of all positions or of each row's last token.
    """
    config = read_json(model_folder / "config.json")
    generation = model_folder / "generation_config.json"
    defaults = read_json(generation) if generation.is_file() else None
    settings = genai_config(model_spec(config), config, defaults, dialect)
    write_onnx(model_folder, onnx_folder, precision, dialect=dialect, logits=logits, on_layer=on_layer)
    copy_tokenizer(model_folder, onnx_folder)
    pad_on_the_right(onnx_folder)
    (onnx_folder / GENAI_CONFIG).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", "utf-8")
