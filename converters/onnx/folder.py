"""Writes a model folder as one that ONNX Runtime and ONNX Runtime GenAI run, and compares the two."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from converters.onnx.form import OnnxForm, read_form
from converters.onnx.genai_config import GENAI_CONFIG, genai_config
from converters.onnx.graph.decoder import decoder_graph
from converters.onnx.onnx_writer import DATA_FILE, MODEL_FILE, write_onnx
from converters.onnx.structure import graph_differences, large_tensors
from converters.onnx.weights.scaling import read_scaling
from converters.onnx.weights.weights import open_weights
from converters.small_files import Content, copies, file_differences, in_order, write_files
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
) -> None:
    """Writes the ONNX form of a model folder, dense or pruned, into `onnx_folder`; see `Format.write`.

    Besides the graph and its data, writes the tokenizer, set to pad on the right, and genai_config.json.
    """
    files = _small_files(model_folder, form)
    tokenizer_files(model_folder)
    with whole_or_nothing(onnx_folder):
        write_onnx(model_folder, onnx_folder, form, on_layer=on_layer)
        write_files(onnx_folder, files)


def folder_damages(model_folder: Path, onnx_folder: Path) -> Iterator[str]:
    """Finds where a graph, its data file, genai_config.json and the tokenizer are not the model's; a line each."""
    path = onnx_folder / MODEL_FILE
    form, scaling, spec = read_form(path), read_scaling(path), read_spec(model_folder)
    weights = open_weights(model_folder, spec, form.precision)
    expected = decoder_graph(spec, weights, form, scaling).build("")
    lines = list(graph_differences(expected, path, dict.fromkeys(large_tensors(expected), DATA_FILE)))
    # the files would only repeat what the graph says
    yield from lines or file_differences(onnx_folder, _small_files(model_folder, form))


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
