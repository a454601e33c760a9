"""The tokenizer travels with the model as the files it came in: re-saving one can change its ids."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from seap_export.errors import InputError
from seap_export.sources.config import read_json

__all__ = ["MODEL_INPUTS", "copy_tokenizer", "name_tokenizer_class", "pad_on_the_right", "tokenizer_files"]

#: What a decoder takes. `PreTrainedTokenizerFast` of transformers 4.57 would give token_type_ids too, and `generate`
#: refuses them.
MODEL_INPUTS = ["input_ids", "attention_mask"]
_NAMES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
)


def tokenizer_files(folder: Path) -> tuple[Path, ...]:
    """The tokenizer's files in a model folder.

    Raises:
        InputError: There is no tokenizer.json, the form that every runtime reads.
    """
    files = tuple(folder / name for name in _NAMES if (folder / name).is_file())
    if folder / "tokenizer.json" not in files:
        raise InputError(
            f"{folder}: no tokenizer.json; save a fast tokenizer there first: "
            "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
        )
    read_json(folder / "tokenizer.json")
    return files


def copy_tokenizer(folder: Path, target: Path) -> None:
    """Copies the tokenizer's files, unchanged, into `target`, which exists."""
    for file in tokenizer_files(folder):
        shutil.copyfile(file, target / file.name)


def pad_on_the_right(folder: Path) -> None:
    """Makes a copied tokenizer pad on the right, the side that the fused attention operator needs."""
    _write_config(folder, {**_read_config(folder), "padding_side": "right"})


def name_tokenizer_class(folder: Path, *, always: bool) -> None:
    """Names the class that takes tokenizer.json as it is, where a copied tokenizer names none, or `always`.

    transformers 4.57 would go by the model's type then, and has no tokenizer for a pruned one; transformers 5
    would rebuild a tokenizer of another class that it takes as it is for the dense model.
    """
    config = _read_config(folder)
    if always or not config.get("tokenizer_class"):
        named = {"model_input_names": MODEL_INPUTS, **config, "tokenizer_class": "PreTrainedTokenizerFast"}
        _write_config(folder, named)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    return read_json(path) if path.is_file() else {}


def _write_config(folder: Path, config: dict[str, Any]) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")
