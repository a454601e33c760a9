"""Questions, generated answers against a plain loop over torch logits, in both forms, and fresh texts."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from support.calibration import Killed, calibration_in, die_at, statistics_in
from support.conversations import write_chat_model
from support.corpora import micro_texts, random_token_ids
from support.editing import edit_weights
from support.execution import ONE_THREAD, RUN_BY
from support.models import (
    COMPLETION_STEPS,
    WRONG_EVERY,
    Completion,
    greedy_completions,
    micro_source,
    write_micro_model,
)
from support.product import Calibration, Compute, load_tokenizer
from support.tokenizers import add_chat_template
from tokenizers import AddedToken, Tokenizer

from seap_export.corpus import AnswerRule, parse_task
from seap_export.errors import ArtifactError, InputError
from validation.execution import Execution
from validation.generation import OpenQuestion, OpenTask, evaluate_generation, fresh, open_task
from validation.generation.fresh import FreshTexts, beginnings, write_fresh_texts
from validation.generation.greedy import Ends, continue_prompts
from validation.generation.sampled import Beginning, open_author, sampled_texts

PROMPTS = micro_texts(12, seed=4)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from support.product import convert_folder

    folder = tmp_path_factory.mktemp("generation")
    write_micro_model(folder / "hf", max_position_embeddings=64, model_type="llama")
    (folder / "onnx").mkdir()
    convert_folder(folder / "hf", folder / "onnx")
    return folder


@pytest.fixture(scope="session")
def written(model: Path) -> list[Completion]:
    """What the model writes after each of twelve prompts of 4 to 24 words: some texts end, others do not."""
    completions = greedy_completions(model / "hf", PROMPTS)
    assert {completion.is_ended for completion in completions} == {True, False}  # or a test could not tell them apart
    return completions


@pytest.fixture(scope="session")
def task(written: list[Completion]) -> OpenTask:
    """The right answers are the model's first words, but for each third question."""
    rule = AnswerRule(r"(\S+)")
    answers = [rule.find(completion.text) or "nothing" for completion in written]
    questions = [
        OpenQuestion(prompt, f" {gold}", "planted" if index % WRONG_EVERY == 0 else gold)
        for index, (prompt, gold) in enumerate(zip(PROMPTS, answers, strict=True))
    ]
    return OpenTask("t", rule, tuple(questions))


TASK = 'corpus = "a.jsonl"\nprompt = "Question: {q}\\nAnswer:"\ncompletion = " {a}"\nanswer = "last number"\n'
RECORDS = [{"q": "1+1?", "a": "It is 2."}, {"q": "2+2?", "a": "2+2=4\n#### 4"}]
EXAMPLES = [{"q": "3+3?", "a": "6 "}, {"q": "4+4?", "a": "8"}, {"q": "1+1?", "a": "2"}]


def _opened(tmp_path: Path, words: str = "", records: list[dict[str, str]] = RECORDS, limit: int | None = None) -> Any:
    for name, lines in {"a": records, "b": EXAMPLES}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in lines))
    (tmp_path / "a.toml").write_text(TASK + words)
    return open_task(parse_task(f"a={tmp_path / 'a.toml'}"), limit)


def test_the_right_answer_is_found_in_the_completion_and_examples_come_first(tmp_path: Path) -> None:
    task = _opened(tmp_path)
    prompts = ("Question: 1+1?\nAnswer:", "Question: 2+2?\nAnswer:")
    expected = OpenQuestion(prompts[0], " It is 2.", "2"), OpenQuestion(prompts[1], " 2+2=4\n#### 4", "4")
    assert (task.questions, task.prompts) == (expected, prompts)
    assert task.questions[0].text == "Question: 1+1?\nAnswer: It is 2."
    assert _opened(tmp_path, limit=1).questions == task.questions[:1]
    shown = _opened(tmp_path, 'shots = 2\nexamples = "b.jsonl"\n')
    assert shown.prompts[1] == f"Question: 3+3?\nAnswer: 6\n\nQuestion: 4+4?\nAnswer: 8\n\n{prompts[1]}"
    assert shown.sha256 != task.sha256


@pytest.mark.parametrize(
    ("record", "shots", "message"),
    [
        (RECORDS[0], 3, "1 of the 3 examples are questions, too"),
        (RECORDS[0], 4, "has 3 texts, fewer than shots = 4"),
        ({"q": "x", "a": "no number"}, 0, "text 1: no answer is found in the completion ' no number'"),
        ({"q": "x"}, 0, "'a'"),
    ],
)
def test_what_gives_no_questions_is_refused(tmp_path: Path, record: dict[str, str], shots: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        _opened(tmp_path, f'shots = {shots}\nexamples = "b.jsonl"\n' if shots else "", records=[record])


def _asked(folder: Path, task: OpenTask, form: str = "hf", **options: Any) -> Any:
    options = {"max_new_tokens": COMPLETION_STEPS, "execution": ONE_THREAD, **options}
    return evaluate_generation(folder, [task], runtime=RUN_BY[form], **options)[task.name]


@pytest.mark.parametrize(("form", "batch_size"), [("hf", 5), ("onnx", 1), ("onnx", 5)])
def test_texts_and_figures_are_those_of_a_plain_loop(
    model: Path, task: OpenTask, written: list[Completion], form: str, batch_size: int
) -> None:
    """Every text, whatever it is padded to; and every planted wrong answer is found."""
    figures = _asked(model / form, task, form, batch_size=batch_size)
    answers = [(answer.prompt, answer.text, answer.tokens, answer.is_stopped) for answer in figures.answers]
    assert answers == [
        (question.prompt, answer.text, len(answer.tokens), answer.is_ended)
        for question, answer in zip(task.questions, written, strict=True)
    ]
    answered = [task.rule.find(answer.text) is not None for answer in written]
    right = [index % WRONG_EVERY != 0 and answer for index, answer in enumerate(answered)]
    assert figures.right == tuple(right)
    share = sum(right) / len(right)
    assert 0 < share < 1
    error = math.sqrt(share * (1 - share) / (len(right) - 1))
    assert (figures.exact_match, figures.exact_match_stderr) == pytest.approx((share, error))
    assert figures.mean_tokens == pytest.approx(np.mean([len(answer.tokens) for answer in written]))
    assert figures.never_stopped == pytest.approx(np.mean([not answer.is_ended for answer in written]))
    assert figures.unanswered == pytest.approx(1 - np.mean(answered))


@pytest.mark.parametrize("form", ["hf", "onnx"])
def test_a_text_ends_before_a_stop(model: Path, task: OpenTask, written: list[Completion], form: str) -> None:
    """The first word of the third place of some text; its tokens count, what follows is not generated."""
    places = ((index, completion.text.split()) for index, completion in enumerate(written))
    index, stop = next((index, words[2]) for index, words in places if len(words) > 3)
    figures = _asked(model / form, replace(task, rule=replace(task.rule, stop=(f" {stop}",))), form)
    text = written[index].text
    assert figures.answers[index].text == text[: text.index(f" {stop}")]
    assert figures.answers[index].is_stopped
    assert figures.answers[index].tokens < len(written[index].tokens)
    for completion, answer in zip(written, figures.answers, strict=True):
        assert f" {stop}" not in answer.text
        assert completion.text.startswith(answer.text)


def test_the_end_of_a_turn_ends_a_text(model: Path, task: OpenTask, written: list[Completion], tmp_path: Path) -> None:
    """The chat template alone says that `home` is one."""
    index = next(index for index, completion in enumerate(written) if " home" in completion.text)
    folder = add_chat_template(Path(shutil.copytree(model / "hf", tmp_path / "hf")))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken("home", special=True, normalized=False)])
    tokenizer.save(str(folder / "tokenizer.json"))
    answer = _asked(folder, task).answers[index]
    assert answer.text == written[index].text.partition(" home")[0]
    assert answer.is_stopped


@pytest.mark.parametrize("form", ["hf", "onnx"])
def test_prompts_near_the_end_of_the_context_run_alone(model: Path, form: str) -> None:
    """64 positions: a long prompt gets what is left, and the others get what they would get without it."""
    texts = [*micro_texts(4, seed=8), " ".join(micro_texts(8, seed=3)).split(" a")[0]]
    long = " ".join((" ".join(micro_texts(8, seed=3))).split()[:60])
    questions = tuple(OpenQuestion(text, " cat", "cat") for text in [*texts[:4], long])
    together = _asked(model / form, OpenTask("t", AnswerRule("(cat)"), questions), form)
    apart = [_asked(model / form, OpenTask("t", AnswerRule("(cat)"), (answer,)), form) for answer in questions]
    assert [answer.text for answer in together.answers] == [answer.answers[0].text for answer in apart]
    assert together.answers[-1].tokens <= 4
    too_long = replace(questions[-1], prompt=f"{long} the cat sat on")
    with pytest.raises(InputError, match=r"the prompt .* has 64 tokens.* context is 64; "):
        _asked(model / form, OpenTask("t", AnswerRule("(cat)"), (too_long,)), form)


def test_a_model_that_computes_nan_is_refused(model: Path, task: OpenTask, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(model / "hf", tmp_path / "hf"))
    edit_weights(damaged, lambda weights: weights["model.norm.weight"].fill_(float("nan")))
    with pytest.raises(ArtifactError, match=f"{damaged}: its logits are NaN"):
        _asked(damaged, task)


class _Counting:
    """A runner whose rows go on with the token after their last one, as far as 9."""

    def __init__(self) -> None:
        self.steps: list[list[int]] = []

    def prefill(self, input_ids: Any, lengths: Sequence[int], room: int = 0) -> Any:
        return self._logits([int(row[length - 1]) for row, length in zip(input_ids, lengths, strict=True)])[:, None]

    def step(self, next_ids: Sequence[int]) -> Any:
        self.steps.append(list(next_ids))
        return self._logits(next_ids)

    def _logits(self, last: Sequence[int]) -> Any:
        return np.eye(10, dtype=np.float32)[[min(token + 1, 9) for token in last]]


class _Keeping(_Counting):
    def keep(self, rows: Sequence[int]) -> None:
        self.steps.append([-1, *rows])


@pytest.mark.parametrize(
    ("runner", "steps"),
    [
        (_Counting(), [[5, 4, 1], [5, 5, 2], [5, 5, 3], [5, 5, 4], [5, 5, 5]]),
        (_Keeping(), [[5, 4, 1], [-1, 1, 2], [5, 2], [-1, 1], [3], [4], [5]]),
    ],
)
def test_rows_that_have_ended_are_left_out_where_a_runner_can(
    runner: _Counting, steps: list[list[int]], model: Path
) -> None:
    ends, tokenizer = Ends(frozenset({6}), AnswerRule("(cat)"), 8, 64, 64), load_tokenizer(model / "hf")
    before: list[int] = []
    done = lambda row: before.append(len(runner.steps))  # noqa: E731
    completions = continue_prompts(cast(Any, runner), tokenizer, [[2, 4], [2, 3], [2, 0]], ends, 3, done)
    assert [completion.tokens for completion in completions] == [1, 2, 5]
    assert runner.steps == steps
    assert before == [len(steps)] * 3  # or the time left would follow from the shortest


def test_what_a_runtime_generates_by_itself_is_cut(model: Path) -> None:
    """It goes on past the end of texts, and past what was asked for."""
    ends = Ends(frozenset({2}), AnswerRule("(cat)", stop=(" dog",)), 4, 64, 64)
    tokenizer = load_tokenizer(model / "hf")
    the, cat, dog = map(tokenizer.token_to_id, ("the", "cat", "dog"))
    texts = [[cat, 2, cat], [the, dog, cat], [cat] * 9]
    runner: Any = SimpleNamespace(follow=lambda prompts, steps: [list(texts[prompt[0]]) for prompt in prompts])
    done: list[object] = []
    completions = continue_prompts(runner, tokenizer, [[0], [1], [2]], ends, 2, done.append)
    assert len(done) == 3
    assert [(completion.text.strip(), completion.tokens, completion.is_stopped) for completion in completions] == [
        ("cat", 1, True), ("the", 2, True), ("cat cat cat cat", 4, False),
    ]  # fmt: skip


TEXTS = [[10 + row, *range(20, 50)] for row in range(6)]


def test_a_text_is_cut_between_an_eighth_and_a_half_and_elsewhere_in_each_round() -> None:
    cut = [*islice(beginnings([*TEXTS, [7]], (), (), 24, 0, seed=1), 12)]
    for text, beginning in zip(TEXTS * 2, cut, strict=True):
        assert list(beginning.tokens) == text[: len(beginning.tokens)]
        assert 24 / 8 <= len(beginning.tokens) <= 24 / 2
        assert beginning.length == 24  # the most, of a text of 31
    assert len({beginning.seed for beginning in cut}) == 12
    assert [len(one.tokens) for one in cut[:6]] != [len(one.tokens) for one in cut[6:]]
    assert [*islice(beginnings(TEXTS, (), (), 24, 0, seed=1), 6)] == cut[:6]
    assert [*islice(beginnings(TEXTS, (), (), 24, 0, seed=2), 6)] != cut[:6]
    assert [*beginnings([[7], []], (), (), 24, 0, seed=1)] == []
    # an assistant's turn is written from its start
    text = [1, 5, 6, 2, 3, 5, 6, 4, 4, 4]
    last, other = islice(beginnings([text, [1, 2, 5, 3]], (5, 6), (9,), 100, 50, seed=0), 2)
    assert (last.tokens, last.length, last.shown) == ((1, 5, 6, 2, 3, 5, 6), 100, ())
    assert (len(other.tokens) <= 2, other.length) == (True, 4)  # it has no such turn
    assert other.shown


def test_other_texts_are_shown_before_a_beginning_as_far_as_there_is_room() -> None:
    begun = list(islice(beginnings(TEXTS, (), (7, 8), 24, 70, seed=1), 12))
    assert all(one.shown == begun[0].shown != other.shown for one, other in zip(begun[:6], begun[6:], strict=True))
    shown = [begun[0].shown[start : start + 33] for start in (0, 33)]
    assert all(list(ids[:31]) in TEXTS and ids[31:] == (7, 8) for ids in shown)
    assert (len(begun[0].shown), shown[0] != shown[1]) == (66, True)


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ([1, *range(60, 90)], ""),
        ([1, *range(60, 64), *range(100, 113), 9], "overlapping"),  # 13 tokens of a held-out text
        ([1, *range(60, 64), *range(100, 112), 9], ""),  # 12
        ([1, *range(60, 80), *range(200, 215)], ""),  # in a held-out text, but in all texts
        ([0, *range(1, 20), 300, 301], "repeated"),  # nothing new but two tokens
        ([0, 1, 2, *range(300, 312)], ""),
        ([0, 1, 2], "repeated"),  # shorter than what is compared
    ],
)
def test_texts_are_left_out_that_say_nothing_new_or_are_held_out(written: list[int], reason: str) -> None:
    known = [list(range(0, 20)), [*range(200, 215)], [0, 1, 2]]
    texts = FreshTexts(known, [[*range(100, 120)], [*range(200, 215), 5, 6]])
    assert texts.add(written, given=1) is (reason == "")
    assert {name for name in ("overlapping", "repeated") if getattr(texts, name)} == ({reason} - {""})
    assert texts.texts == ([] if reason else [written])
    assert not texts.add(written, given=1)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Calibration]:
    folder = tmp_path_factory.mktemp("fresh")
    source = micro_source(folder / "dense")
    texts = random_token_ids(12)
    return folder / "dense", calibration_in(statistics_in(folder / "a", source, texts), source, "a", texts)


def test_they_do_not_depend_on_what_is_written_together_nor_on_interruptions(
    dense: tuple[Path, Calibration], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    together = write_fresh_texts(*dense, 800, tmp_path, compute=Compute()).texts
    monkeypatch.setattr(fresh, "BATCH_TOKENS", 100)
    arguments: Any = (*dense, 400, tmp_path / "out")
    with monkeypatch.context() as patch:
        die_at(patch, fresh, "sampled_texts", 2)
        with pytest.raises(Killed):
            write_fresh_texts(*arguments, compute=Compute())
    calls: list[object] = []
    monkeypatch.setattr(fresh, "sampled_texts", lambda *given: calls.append(given) or sampled_texts(*given))
    for _ in range(2):
        few = write_fresh_texts(*arguments, compute=Compute()).texts
        assert few == together[: len(few)] != []
    assert 0 < len(calls) < len(list((tmp_path / "out").iterdir()))


def test_a_model_with_nothing_new_to_say_comes_to_an_end(
    dense: tuple[Path, Calibration], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parrot = [*range(30)]
    monkeypatch.setattr(fresh, "BATCH_TOKENS", 500)
    monkeypatch.setattr(fresh, "sampled_texts", lambda author, batch: [parrot] * len(batch))
    texts = write_fresh_texts(*dense, 10**6, tmp_path, compute=Compute())
    assert texts.texts == [parrot]
    assert texts.repeated < 3 * len(dense[1].token_ids())


def test_a_text_ends_with_a_turn_or_where_it_must(tmp_path: Path) -> None:
    folder = write_chat_model(tmp_path / "m")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    with open_author(folder, Execution(threads=1)) as author:
        assert tokenizer.decode(author.answer_start) == " far on"
        texts = sampled_texts(author, [Beginning((5 + seed, 6), 40, seed) for seed in range(16)])
        begun = [Beginning((5, 6, 7), 30, 1), Beginning((5, 8), 20, 2)]
        apart = sampled_texts(replace(author, shared=20), begun)
        assert apart == sampled_texts(author, begun)
        after = [replace(one, shown=(9, 8, 7)) for one in begun]
        (first, *_) = plain = sampled_texts(author, after)
        assert [ids[:2] for ids in plain] == [ids[:2] for ids in apart] != plain
        assert sampled_texts(replace(author, separator=(first[-1],)), after)[0] == first[: first.index(first[-1], 3)]
    assert tokenizer.token_to_id("</s>") in author.ends
    ends = [len(ids) for ids in texts if ids[-1] in author.ends]
    assert {len(ids) for ids in texts if ids[-1] not in author.ends} <= {40}
    assert ends
    assert all(token not in author.ends for ids in texts for token in ids[2:-1])
