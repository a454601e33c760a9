"""What tests of the Python API give it."""

from __future__ import annotations

from typing import Any

from support.corpora import micro_texts

#: The texts of `a.jsonl` and `b.jsonl` beside a micro model.
TEXTS = {"a": micro_texts(60), "b": micro_texts(60, seed=5)}
#: Without what takes long on a micro model.
FEW: dict[str, Any] = {"decode_steps": 2, "prompts": 1, "quality": False, "speed": False}
