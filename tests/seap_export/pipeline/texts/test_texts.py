"""Texts: as the artifact's own tokenizer reads them, which tokens they keep, and which are of no task."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.editing import edit_json
from support.estimates import kl_estimate
from support.models import write_micro_model
from support.product import CalibrationRecord, CalibrationSettings, DivergenceFigures, Silent, Vocabulary, open_source
from support.progress import Listening
from support.tokenizers import write_byte_level
from support.variations import micro_config
from tokenizers import Tokenizer

from seap_export.common.hashing import sha256_json
from seap_export.corpus import Sample, Split, parse_tasks, text_digest
from seap_export.errors import InputError
from seap_export.model.families import model_spec
from seap_export.model.vocabulary import choice
from seap_export.model.vocabulary.choice import VocabularySize
from seap_export.pipeline.request.options import CALIBRATION_TOKENS
from seap_export.pipeline.texts import vocabulary
from seap_export.pipeline.texts.general_text import (
    GENERAL_TEXT,
    MOST_TEXTS,
    ElsewhereFigures,
    TextSet,
    elsewhere_texts,
    refuse_damaged_cell,
)
from seap_export.pipeline.texts.split_tasks import split_tasks, tokenize, warn_of_texts
from seap_export.pipeline.texts.vocabulary import choose_vocabularies
from validation.divergence.paired import Bytes, PerByte, same_cut
from validation.estimate import kl_json


def write_lines(path: Path, records: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")


@pytest.mark.parametrize(("max_length", "positions"), [(512, 128), (3, 128), (512, 4)])
def test_texts_are_taken_up_to_the_number_of_tokens(tmp_path: Path, max_length: int, positions: int) -> None:
    """Of 500 texts of 1 to 10 tokens."""
    write_lines(tmp_path / "a.jsonl", [{"text": f"{index} " + "cat " * (index % 10)} for index in range(500)])
    model = write_micro_model(tmp_path / "m", model_type="llama", max_position_embeddings=positions)
    source = open_source(str(model))
    tasks = parse_tasks([f"a={tmp_path}/a.jsonl"])
    whole = split_tasks(source, tasks, CalibrationSettings(samples=484, max_length=max_length))["a"]
    ids = tokenize(source, {"a": whole.calibration}, max_length)["a"]
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    assert ids == [tokenizer.encode(sample.text).ids[: min(max_length, positions)] for sample in whole.calibration]
    lengths = [len(each) for each in ids]
    assert max(lengths) == min(10, max_length, positions)
    for number in (1, 2, 100, 300, 484):
        for more, taken in ((-1, max(1, number - 1)), (0, number)):
            most = sum(lengths[:number]) + more
            settings = CalibrationSettings(calibration_tokens=most, max_length=max_length)
            assert split_tasks(source, tasks, settings)["a"] == whole.calibrated_on(taken, sum(lengths[:taken]))
            few = min(taken, 90)
            fewer = split_tasks(source, tasks, replace(settings, samples=90))["a"]
            assert fewer == whole.calibrated_on(few, sum(lengths[:few]))
    assert whole.num_tokens == sum(lengths) < CALIBRATION_TOKENS
    assert split_tasks(source, tasks, CalibrationSettings(max_length=max_length))["a"] == whole


def test_texts_that_are_hardly_meant_so_are_worth_a_warning() -> None:
    for corpora, warnings in (
        ({"a": ["1", "2"], "b": ["2", "1"]}, ["tasks 'a' and 'b' have the same texts"]),
        ({"a": ["1", "2"], "b": ["2", "1", "3"]}, []),
        ({"a": ["1", "2"], "b": ["chat 1"]}, []),
        ({"a": ["1", "chat 2", "3"]}, ["task 'a': 1 of its 3 texts are conversations"]),
    ):
        splits, listening = {}, Listening()
        for task, texts in corpora.items():
            first, *others = (Sample(f"<{text}>", "", text if "chat" in text else "") for text in texts)
            splits[task] = Split((first,), tuple(others))
        warn_of_texts(splits, model_spec(micro_config(model_type="llama")), listening)
        assert [line[: len(start)] for line, start in zip(listening.warnings, warnings, strict=True)] == warnings


def _chosen(
    folder: Path,
    lines: dict[str, list[dict[str, str]]],
    size: VocabularySize = 60,
    progress: Silent | None = None,
    **mixtures: list[str],
) -> dict[str, Vocabulary]:
    for name, records in lines.items():
        write_lines(folder / f"{name}.jsonl", records)
        read_as = f'corpus = "{name}.jsonl"\nprompt = "{{text}}"\ncompletion = "{{answer}}"\n'
        (folder / f"{name}.toml").write_text(read_as)
    tasks = parse_tasks([f"{name}={folder / name}.toml" for name in lines])
    return choose_vocabularies(open_source(str(folder / "m")), tasks, mixtures, size, progress or Silent())


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model whose merges make the words of `WORDS` after a space; the chat template has none of them."""
    write_byte_level(write_micro_model(tmp_path / "m", vocab_size=130, model_type="llama"), chat_template="")
    return tmp_path


def _ids(folder: Path, text: str) -> set[int]:
    return set(Tokenizer.from_file(str(folder / "m/tokenizer.json")).encode(text).ids)


def _least(folder: Path, lines: dict[str, list[dict[str, str]]], **mixtures: list[str]) -> dict[str, set[int]]:
    """What is required, without what fills up the number."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocabulary, "choose_tokens", lambda _, tokens, __, of: Vocabulary(tuple(sorted(tokens)), of))
        return {name: set(tokens.kept) for name, tokens in _chosen(folder, lines, **mixtures).items()}


def test_every_text_counts_and_prompts_by_themselves(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "_BATCH", 2)
    plain = [{"text": " the", "answer": ""}] * 5
    lines = {"a": [*plain, {"text": " mor", "answer": "e"}], "b": [{"text": " far", "answer": " see"}]}
    kept = _least(model, lines, a=["a"], b=["b"], both=["a", "b", "support"])
    assert _ids(model, " the more") | _ids(model, " mor") <= kept["a"]
    assert not _ids(model, " far") & kept["a"]
    assert kept["both"] == kept["a"] | kept["b"]
    write_byte_level(model / "m", chat_template="{{ bos }} see {{ messages }}")
    assert _least(model, lines, a=["a"])["a"] - kept["a"] >= _ids(model, " see") - _ids(model, " ")


def test_what_further_texts_will_lack_is_said_and_a_warning_if_it_is_much(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "MULTIPLE", 1)
    few = [*({"text": " the" * number, "answer": ""} for number in range(1, 20)), {"text": " far more", "answer": ""}]
    enough, progress = [*few, {"text": " more far", "answer": ""}], Listening()
    mixtures = {"a": ["a"], "b": ["b"], "both": ["a", "b"]}
    kept = _chosen(model, {"a": few, "b": enough}, "auto", progress, **mixtures)["a"]
    (warned,) = progress.warnings
    rare = len(Tokenizer.from_file(str(model / "m/tokenizer.json")).encode(" far more").ids)
    said = f"a: in new texts, about {rare / (rare + sum(range(1, 20))):.1%} of the tokens will be missing from the "
    assert warned.startswith(f"{said}{len(kept)} that --vocabulary keeps")
    assert warned.endswith("give more texts, or --vocabulary 64 (0.0% missing)")
    about = [line.partition(" of ")[0] for line in progress.said]
    assert about == [f"{name}: in new texts, about 0.0%" for name in ("b", "both")]


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(model: Path) -> None:
    edit_json(model / "m/tokenizer.json", lambda values: values["model"]["vocab"].update(zz=130))
    with pytest.raises(InputError, match=r"token id 130.*vocabulary of 130"):
        _chosen(model, {"a": [{"text": " the", "answer": ""}]}, a=["a"])


def record(task: str, held_out: list[str], calibrated: tuple[str, ...] = ()) -> CalibrationRecord:
    samples = tuple({"prompt": text[:3], "completion": text[3:]} for text in held_out)
    digests = tuple(sorted(map(text_digest, held_out)))
    return CalibrationRecord(task, "m", "00", 0, 512, 100, tuple(map(text_digest, calibrated)), digests, samples)


def test_texts_of_every_task_and_general_text_without_what_was_calibrated_on(tmp_path: Path) -> None:
    """The first held-out ones; what other tasks were calibrated on, too, and a task of which nothing is left."""
    numbered = [f"number {number}" for number in range(MOST_TEXTS + 3)]
    sets = elsewhere_texts([record("b", ["one text", "another"]), record("a", numbered)], None)
    assert list(sets) == ["a", "b", GENERAL_TEXT]
    assert (sets["a"], sets["b"]) == (tuple(numbered[:MOST_TEXTS]), ("one text", "another"))
    assert len(set(sets[GENERAL_TEXT])) == MOST_TEXTS
    write_lines(tmp_path / "g.jsonl", [{"text": text} for text in ("one", "two", "two", "three")])
    records = [record("a", ["held out", "shared"], ("two",)), record("b", ["x"], ("shared",)), record("c", ["one"])]
    sets = elsewhere_texts([*records, record("d", ["three"], ("x",))], tmp_path / "g.jsonl")
    assert sets == {"a": ("held out",), "c": ("one",), "d": ("three",), GENERAL_TEXT: ("one", "three")}


def cell() -> dict[str, Any]:
    texts = TextSet(("abc",), True, (replace(same_cut((1, 2, 3)), bytes=Bytes(3, 2, 2)),))
    figures = DivergenceFigures(kl_estimate(0.5), 0.9, 8.0, 4.0, per_byte=PerByte(0.1, 1.25, 0.75, 12))
    return ElsewhereFigures(texts, figures).to_json()


def test_the_figures_of_a_set() -> None:
    assert cell() == {
        "own": True, **kl_json(kl_estimate(0.5)), "bits_per_byte": 1.25, "dense_bits_per_byte": 0.75, "texts": 1,
        "tokens": 40, "bytes": 12, "sha256": sha256_json(["abc"]),
    }  # fmt: skip
    refuse_damaged_cell(cell())
    for change in ({"own": 1}, {"mean_kl_nats": "0.1"}, {"texts": 1.5}, {"sha256": None}):
        with pytest.raises(TypeError):
            refuse_damaged_cell({**cell(), **change})
