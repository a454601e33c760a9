"""Texts of micro models: words, token ids, and the corpora of tasks."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

_TEXT = "the a cat dog mat sat on and then it ran far from home to see one more time"
WORDS = tuple(_TEXT.split())


def micro_texts(number: int, seed: int | str = 0, words: Sequence[str] = WORDS) -> list[str]:
    """Distinct texts of 4 to 24 words."""
    chance = random.Random(seed)
    texts: dict[str, None] = {}
    while len(texts) < number:
        texts[" ".join(chance.choices(words, k=chance.randint(4, 24)))] = None
    return list(texts)


def write_corpus(path: Path, number: int = 60, seed: int = 0) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in micro_texts(number, seed)), "utf-8")
    return path


#: The words of each task's texts.
TASK_WORDS = {"a": WORDS[:10], "b": WORDS[8:]}


def task_texts(task: str, number: int, seed: int = 0) -> list[str]:
    """Distinct texts of 4 to 24 words of the task."""
    return micro_texts(number, f"{seed}{task}", TASK_WORDS[task])


def write_task_corpora(folder: Path) -> None:
    for task in TASK_WORDS:
        lines = (json.dumps({"text": text}) + "\n" for text in task_texts(task, 60))
        (folder / f"{task}.jsonl").write_text("".join(lines), "utf-8")


Texts = Sequence[Sequence[int]]


def random_token_ids(number: int = 12, seed: int = 0, vocabulary: int = 96, longest: int = 30) -> list[list[int]]:
    """Token ids, 1 to 30 a text: shorter and longer than the window of 5, the padding id 0 among them."""
    chance = random.Random(seed)
    return [[chance.randrange(vocabulary) for _ in range(chance.randint(1, longest))] for _ in range(number)]
