"""Conversations of micro models, and their chat template."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from support.corpora import WORDS
from support.models import write_micro_model
from support.tokenizers import write_byte_level

#: The turns begin and end with words that the tokenizer knows; a system turn is refused.
TEMPLATE = (
    "{% for message in messages %}{% if message.role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    "{{ {'user': ' one', 'assistant': ' far'}[message.role] }} on{{ message.content }}</s> and{% endfor %}"
    "{% if add_generation_prompt %} far on{% endif %}"
)


def conversations(number: int, of: Sequence[str] = WORDS) -> list[dict[str, Any]]:
    """Records with a question and an answer of five words each."""
    chance = random.Random(0)
    words = [["".join(f" {word}" for word in chance.choices(of, k=5)) for _ in range(2)] for _ in range(number)]
    return [
        {"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]}
        for user, answer in words
    ]


def write_records(path: Path, records: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")


def write_chat_model(folder: Path) -> Path:
    write_byte_level(write_micro_model(folder, vocab_size=130, model_type="llama"), chat_template=TEMPLATE)
    return folder
