"""A tokenizer in which every token of a micro model is a word, so that no generated text is empty."""

from __future__ import annotations

import json
from pathlib import Path


def name_all_tokens(onnx_folder: Path) -> Path:
    """Gives the tokens that `micro.write_micro_tokenizer` leaves without a word the words w24, w25, ..."""
    path = onnx_folder / "tokenizer.json"
    values = json.loads(path.read_text("utf-8"))
    words = values["model"]["vocab"]
    words.update({f"w{token}": token for token in range(96) if token not in words.values()})
    path.write_text(json.dumps(values), "utf-8")
    return onnx_folder
