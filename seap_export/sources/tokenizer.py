"""The tokenizer travels with the model as the files it came in: re-saving one can change its ids."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from seap_export.errors import InputError
from seap_export.sources.config import read_json

__all__ = ["copy_tokenizer", "pad_on_the_right", "tokenizer_files"]

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
    path = folder / "tokenizer_config.json"
    config = read_json(path) if path.is_file() else {}
    config["padding_side"] = "right"
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")
