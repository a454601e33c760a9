"""A model folder becomes a folder that ONNX Runtime and ONNX Runtime GenAI run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from converters.onnx.form import OnnxForm
from converters.onnx.genai_config import GENAI_CONFIG, genai_config
from converters.onnx.onnx_writer import write_onnx
from converters.whole import whole_or_nothing
from seap_export.families import model_spec
from seap_export.json_file import read_json, read_json_if_present, write_json
from seap_export.sources.tokenizer import copy_tokenizer, pad_on_the_right

__all__ = ["convert_folder"]

_DEFAULT = OnnxForm()


def convert_folder(
    model_folder: Path,
    onnx_folder: Path,
    form: OnnxForm = _DEFAULT,
    on_layer: Callable[[int], None] = lambda layer: None,
) -> None:
    """Writes the ONNX form of a model folder, dense or pruned, into `onnx_folder`.

    Besides the graph and its data, writes the tokenizer, set to pad on the right, and genai_config.json.

    Args:
        model_folder: Contains config.json, safetensors files and the tokenizer.
        onnx_folder: An existing, empty folder.
        form: Precision, dialect and logits of the graph.
        on_layer: Called with a layer's index once all its weights are written.

    Raises:
        InputError, UsageError, EnvironmentFailure: As for `write_onnx`.
    """
    config = read_json(model_folder / "config.json")
    defaults = read_json_if_present(model_folder / "generation_config.json")
    settings = genai_config(model_spec(config), config, defaults, form)
    with whole_or_nothing(onnx_folder):
        write_onnx(model_folder, onnx_folder, form, on_layer=on_layer)
        copy_tokenizer(model_folder, onnx_folder)
        pad_on_the_right(onnx_folder)
        write_json(onnx_folder / GENAI_CONFIG, settings, indent=2, sort_keys=True, ensure_ascii=True)
