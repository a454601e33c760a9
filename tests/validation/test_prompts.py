"""The cases of a parity run are made from the prompts alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
from support.tokenizers import write_micro_tokenizer

from seap_export.errors import ArtifactError
from seap_export.pipeline.gate.parity import held_out_prompts
from validation.prompts import Case, parity_cases, tokenize_prompts


def plan(texts: Sequence[tuple[int, ...]], long_tokens: int = 40, steps: int = 3) -> tuple[Case, ...]:
    return parity_cases(texts, vocab_size=9, max_prompt_tokens=8, long_tokens=long_tokens, steps=steps)


def test_decode_steps_take_the_tokens_that_follow_in_the_text() -> None:
    cases = {case.name: case for case in plan([tuple(range(10)), (7, 8)])}
    assert cases["prompt 0"].rows == (tuple(range(8)),)
    assert cases["prompt 0"].forced == ((8, 9, 0),)  # the text starts again at its end
    assert cases["prompt 1"].forced == ((7, 8, 7),)
    batch = cases["batch of 3"]
    assert [*map(len, batch.rows)] == [8, 2, 4]
    assert batch.forced == ((8, 9, 0), (7, 8, 7), (4, 5, 6))
    assert (cases["one token"].rows, cases["one token"].forced) == (((0,),), ((1, 2, 3),))
    assert cases["random tokens"].forced == ((0, 1, 2),)
    assert [*cases["long prompt"].rows[0], *cases["long prompt"].forced[0]] == [*range(8), 7, 8] * 4 + [0, 1, 2]


@pytest.mark.parametrize(
    ("lengths", "batch"),
    [((5, 2, 3), (5, 2, 3)), ((4, 4, 4, 3), (4, 3, 2)), ((8,), (8, 4, 2)), ((8, 3), (8, 3, 4)), ((2,), (2, 1, 3))],
)
def test_the_batch_has_three_rows_of_different_lengths(lengths: tuple[int, ...], batch: tuple[int, ...]) -> None:
    cases = plan([tuple(range(length)) for length in lengths], long_tokens=40)
    others = ["batch of 3", "one token", "random tokens", "long prompt"]
    assert [case.name for case in cases] == [*(f"prompt {i}" for i in range(len(lengths))), *others]
    assert tuple(len(row) for row in cases[len(lengths)].rows) == batch


def test_the_tasks_of_a_variant_give_prompts_in_turn() -> None:
    held_out = [[("a", " b"), ("", "c")], [("d", "")]]
    assert [held_out_prompts(held_out, number) for number in (2, 9)] == [["a", "d"], ["a", "d", "c"]]


def test_a_long_prompt_is_run_in_calls_and_its_end_is_compared() -> None:
    cases = plan([(1, 2, 3)], long_tokens=1300)
    random, long = cases[-2:]
    assert len(random.rows[0]) == 64
    assert set(random.rows[0]) == set(range(9))
    assert random.rows == plan([(4, 5)], long_tokens=1300)[-2].rows
    assert long.rows[0] == ((1, 2, 3) * 500)[:1300]
    assert [len(call) for call in long.calls] == [512, 512, 276]
    assert long.kept == 64
    one = plan([(1,)], long_tokens=1)[-1]
    assert (one.calls, one.kept) == (((1,),), 1)


def test_a_token_id_beyond_the_vocabulary_is_refused(tmp_path: Path) -> None:
    write_micro_tokenizer(tmp_path)
    tokenized = partial(tokenize_prompts, tmp_path, ["the cat sat"], max_tokens=8)
    (ids,) = tokenized(vocab_size=99)
    largest = max(ids)
    assert tokenized(vocab_size=largest + 1) == (ids,)
    with pytest.raises(ArtifactError, match=f"token id {largest}, its model has a vocabulary of {largest}"):
        tokenized(vocab_size=largest)
