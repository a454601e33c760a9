"""Checks that the files of an ONNX folder are complete and belong to a model folder, without running a model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from converters.onnx.form import OnnxForm, read_form
from converters.onnx.genai_config import GENAI_CONFIG, genai_config
from converters.onnx.onnx_writer import MODEL_FILE
from converters.onnx.stored import interface_differences, refuse_bad_data
from seap_export.families import model_spec
from seap_export.json_file import read_artifact, read_json, read_json_if_present
from seap_export.sources.tokenizer import TOKENIZER_FILES

__all__ = ["onnx_damages"]

#: The only setting in which a copied tokenizer differs: graphs need padding on the right.
_PADDING = "padding_side"


def onnx_damages(model_folder: Path, folder: Path) -> Iterator[str]:
    """Damage to the data file, and what differs from the model: inputs and outputs, genai_config.json, tokenizer.

    Raises:
        ArtifactError, InputError: A file cannot be read.
    """
    refuse_bad_data(folder)
    form = read_form(folder / MODEL_FILE)
    is_other = False
    for line in interface_differences(model_folder, folder, form):
        is_other = True
        yield f"{folder}: {line}"
    if not is_other:  # or the settings would only repeat it
        yield from _settings(model_folder, folder, form)
        yield from _tokenizer(model_folder, folder)


def _settings(model_folder: Path, folder: Path, form: OnnxForm) -> Iterator[str]:
    """Differences between genai_config.json and what the model requires."""
    config = read_json(model_folder / "config.json")
    defaults = read_json_if_present(model_folder / "generation_config.json")
    expected = genai_config(model_spec(config), config, defaults, form)
    found = read_artifact(folder / GENAI_CONFIG)
    for section in expected.keys() | found.keys():
        wanted, own = expected.get(section), found.get(section)
        if wanted != own:
            different = _difference(wanted, own)
            yield f"{folder / GENAI_CONFIG}: its '{section:.40}' differs from {model_folder.name}/{different}"


def _difference(wanted: Any, found: Any) -> str:
    if not isinstance(wanted, dict) or not isinstance(found, dict):
        return ""
    keys = [key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key)]
    return f" ({', '.join(sorted(map(str, keys)))})"


def _tokenizer(model_folder: Path, folder: Path) -> Iterator[str]:
    """Differences between the graph's tokenizer and chat template and the model's."""
    for name in TOKENIZER_FILES:
        model, graph = model_folder / name, folder / name
        if model.is_file() != graph.is_file():
            if name != "tokenizer_config.json":
                yield f"{folder}: {name} exists only in {(model if model.is_file() else graph).parent.name}"
        elif model.is_file() and model.read_bytes() != graph.read_bytes() and not _is_same_config(name, model, graph):
            yield f"{folder}: {name} differs from {model_folder.name}"


def _is_same_config(name: str, model: Path, graph: Path) -> bool:
    if name != "tokenizer_config.json":
        return False
    own, other = read_artifact(model), read_artifact(graph)
    return {**own, _PADDING: "right"} == other
