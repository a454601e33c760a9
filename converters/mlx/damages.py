"""Damage to an MLX folder that shows without running a model."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from converters.mlx.layout import Layout
from converters.mlx.stored import shape_damages
from converters.mlx.writer import MODEL_FILE, mlx_config
from seap_export.errors import InputError
from seap_export.families import ModelSpec
from seap_export.json_file import read_json
from seap_export.sources.tokenizer import TOKENIZER_FILES

__all__ = ["folder_damages"]

#: Files that are copied as they are; the second holds the tokens that end a text.
_COPIED = (*TOKENIZER_FILES, "generation_config.json")


def folder_damages(model_folder: Path, folder: Path, spec: ModelSpec, layout: Layout) -> Iterator[str]:
    """Files that are missing, damaged or of another model than that of `model_folder`, in words."""
    yield from shape_damages(folder, layout)
    yield from _config(model_folder, folder, spec, layout)
    yield from _model_file(folder / MODEL_FILE)
    for name in _COPIED:
        model, own = model_folder / name, folder / name
        if model.is_file() != own.is_file():
            yield f"{own}: {'missing' if model.is_file() else 'hf/ has no such file'}; export again"
        elif model.is_file() and model.read_bytes() != own.read_bytes():
            yield f"{own}: differs from that of hf/; export again"


def _config(model_folder: Path, folder: Path, spec: ModelSpec, layout: Layout) -> Iterator[str]:
    path = folder / "config.json"
    try:
        found = read_json(path)
    except InputError as error:
        yield f"{error}; export again"
        return
    wanted = mlx_config(model_folder, spec, layout)
    for key in sorted(wanted.keys() | found.keys()):
        if wanted.get(key) != found.get(key):
            yield f"{path}: '{key:.80}' is not that of hf/config.json; export again"


def _model_file(path: Path) -> Iterator[str]:
    try:
        ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError) as error:
        yield f"{path}: missing or damaged ({' '.join(str(error).split())}); export again"
