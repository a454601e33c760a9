"""Writes a model folder as one that ONNX Runtime and ONNX Runtime GenAI run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from converters.onnx.form import OnnxForm
from converters.onnx.genai_config import GENAI_CONFIG, genai_config
from converters.onnx.onnx_writer import write_onnx
from converters.onnx.weights.scaling import Scaling
from converters.small_files import Content, copies, in_order, write_files
from converters.whole import whole_or_nothing
from seap_export.common.json_file import read_json, read_json_if_present
from seap_export.model.families import ModelSpec
from seap_export.model.sources.config import read_spec
from seap_export.model.sources.tokenizer import read_tokenizer_config, tokenizer_files, tokenizer_names

_DEFAULT = OnnxForm()


def convert_folder(
    model_folder: Path,
    onnx_folder: Path,
    form: OnnxForm = _DEFAULT,
    on_layer: Callable[[int], None] = lambda layer: None,
    scaling: Scaling | None = None,
) -> None:
    """Writes the ONNX form of a model folder, dense or pruned, into `onnx_folder`; see `Format.write`.

    Besides the graph and its data, writes the tokenizer, set to pad on the right, and genai_config.json. For
    `scaling`, see `write_onnx`.
    """
    files = _small_files(model_folder, form)
    tokenizer_files(model_folder)
    with whole_or_nothing(onnx_folder):
        write_onnx(model_folder, onnx_folder, form, on_layer=on_layer, scaling=scaling)
        write_files(onnx_folder, files)


def genai_config_of(model_folder: Path, spec: ModelSpec, form: OnnxForm) -> dict[str, Any]:
    config = read_json(model_folder / "config.json")
    return genai_config(spec, config, read_json_if_present(model_folder / "generation_config.json"), form)


def _small_files(model_folder: Path, form: OnnxForm) -> dict[str, Content]:
    """The contents of genai_config.json and of the tokenizer's files, set to pad on the right, as graphs need it."""
    genai = genai_config_of(model_folder, read_spec(model_folder), form)
    return {
        **copies(model_folder, *tokenizer_names(model_folder)),
        "tokenizer_config.json": {**read_tokenizer_config(model_folder), "padding_side": "right"},
        GENAI_CONFIG: in_order(genai),
    }
