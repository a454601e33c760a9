"""Texts of runners that generate by themselves end where those of the others do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seap_export.corpus import AnswerRule
from seap_export.runtime.files import load_tokenizer
from validation.generation.greedy import Ends, continue_prompts


class _Following:
    """A runner that generates by itself, past the end of texts."""

    def __init__(self, tokens: Sequence[Sequence[int]]) -> None:
        self._tokens = dict(enumerate(tokens))

    def follow(self, prompts: Sequence[Sequence[int]], steps: int) -> list[list[int]]:
        return [list(self._tokens[prompt[0]])[:steps] for prompt in prompts]


def test_what_a_runtime_generates_by_itself_is_cut(model: Path) -> None:
    ends = Ends(frozenset({2}), AnswerRule("(cat)", stop=(" dog",)), 4, 64, 64)
    tokenizer = load_tokenizer(model / "hf")
    words = {word: tokenizer.token_to_id(word) for word in ("the", "cat", "dog")}
    texts = [[words["cat"], 2, words["cat"]], [words["the"], words["dog"], words["cat"]], [words["cat"]] * 9]
    runner: Any = _Following(texts)
    found = continue_prompts(runner, tokenizer, [[0], [1], [2]], ends, 2)
    assert [(own.text.strip(), own.tokens, own.is_stopped) for own in found] == [
        ("cat", 1, True), ("the", 2, True), ("cat cat cat cat", 4, False),
    ]  # fmt: skip
