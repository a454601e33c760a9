"""Fresh texts: where they begin, which are left out, and that they are the same however they are written."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from support.calibration import Killed, calibration_in, die_at, statistics_in
from support.conversations import write_chat_model
from support.corpora import random_token_ids
from support.models import micro_source
from support.product import Calibration, Compute
from tokenizers import Tokenizer

from validation.execution import Execution
from validation.generation import fresh
from validation.generation.fresh import FreshTexts, beginnings, write_fresh_texts
from validation.generation.sampled import Beginning, open_author, sampled_texts

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
    """A folder, and a calibration on 12 texts."""
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
