from __future__ import annotations

import pytest

from seap_export.corpus import Sample, Split
from seap_export.errors import InputError
from seap_export.pipeline.router.prompts import RouterPrompts, router_prompts


def token_ids(prompt: str) -> list[int]:
    """One token a letter, at most three."""
    return [ord(letter) for letter in prompt if letter != " "][:3]


def split(calibration: list[tuple[str, str]], held_out: list[tuple[str, str]]) -> Split:
    return Split(tuple(Sample(*pair) for pair in calibration), tuple(Sample(*pair) for pair in held_out))


def test_the_question_without_the_chat_template_the_prompt_or_else_the_completion() -> None:
    samples = (Sample("<user> q <assistant>", "a", question="q"), Sample("p", "a"), Sample("", "a"))
    prompts = router_prompts({"a": Split(samples, ()), "b": split([("b", "")], [])}, token_ids)
    assert prompts.calibration["a"] == [token_ids(text) for text in "qpa"]


def test_held_out_prompts_that_were_fitted_on_are_left_out_whatever_their_task() -> None:
    splits = {
        "a": split([("abc", "1"), ("b", "1")], [("abc", "2"), ("z", "1"), ("c", "1")]),
        "b": split([("c", "2")], [("abcd", "1"), ("y", "1")]),  # cut to three tokens, "abcd" is "abc"
    }
    prompts = router_prompts(splits, token_ids)
    assert prompts.calibration == {"a": [token_ids("abc"), token_ids("b")], "b": [token_ids("c")]}
    assert prompts.held_out == {"a": [token_ids("z")], "b": [token_ids("y")]}
    assert prompts.num_seen == 3


def test_too_little_is_refused() -> None:
    one = split([("a", "1")], [])
    with pytest.raises(InputError, match="at least two tasks"):
        router_prompts({"a": one}, token_ids)
    with pytest.raises(InputError, match="task 'b': the tokenizer finds no token in any prompt"):
        router_prompts({"a": one, "b": split([(" ", "1")], [])}, token_ids)
    with pytest.raises(InputError, match="of the same tasks"):
        RouterPrompts({"a": [[1]], "b": [[2]]}, {"a": []}, 0)
