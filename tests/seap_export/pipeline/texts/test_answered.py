"""Right answers that a variant learns: which texts are set aside, in which tokens, and what they depend on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.models import write_micro_model
from support.product import CalibrationSettings, Job, open_source
from support.tokenizers import write_micro_tokenizer, write_sentencepiece

from seap_export.corpus import Sample, Split, parse_tasks
from seap_export.errors import InputError
from seap_export.pipeline.texts.answered import answered_texts, answers_digest
from seap_export.pipeline.texts.split_tasks import split_tasks
from seap_export.pruning.distillation.learning import AnsweredText
from seap_export.runtime.files import load_tokenizer

SAMPLES = (Sample("the cat", " sat"), Sample("a dog", " ran far"), Sample("a mat", " home"))
SPLIT = Split(SAMPLES, (Sample("then it", " ran"),), is_learnt=True, job=Job("{a}", "\n"))


def test_a_digest_is_of_what_is_learnt_in_any_order() -> None:
    digest = answers_digest([SPLIT])
    others = (Sample("on", " and"),)
    for same in (SAMPLES[::-1], (*SAMPLES, SAMPLES[0])):
        assert answers_digest([replace(SPLIT, calibration=same, held_out=others, num_tokens=5)]) == digest
    assert answers_digest([replace(SPLIT, calibration=SAMPLES[:2]), replace(SPLIT, calibration=SAMPLES[2:])]) != digest
    for changed in (
        replace(SPLIT, calibration=SAMPLES[:2]),
        replace(SPLIT, calibration=(*SAMPLES[:2], Sample("a mat", " far"))),
        replace(SPLIT, calibration=(*SAMPLES[:2], Sample("a mat home", ""))),
        replace(SPLIT, calibration=(*SAMPLES[:2], Sample("a", " mat home"))),  # the same text
        replace(SPLIT, job=None),
        replace(SPLIT, job=Job("{a}", "\n\n")),
        replace(SPLIT, job=Job("{b}", "\n")),
    ):
        assert answers_digest([changed]) != digest


#: Texts, and where their answers begin; none: they are left out.
CASES = {
    ("the cat", " sat on"): 2,
    ("the ca", "t sat"): 1,  # within a token
    ("the cat", ""): None,
    ("", "the cat"): None,
    ("the cat sat on", " a"): None,  # beyond the fourth token
    ("the cat sat", " on a mat"): 3,
}


@pytest.mark.parametrize(("write", "bos"), [(write_micro_tokenizer, 0), (write_sentencepiece, 1)])
def test_texts_are_in_the_tokens_of_the_folder_from_the_first_of_the_answer(
    tmp_path: Path, write: Callable[[Path], None], bos: int
) -> None:
    write(tmp_path)
    tokenizer, most = load_tokenizer(tmp_path), 4 + bos
    samples = {texts: Sample(*texts) for texts in CASES}
    expected = {
        AnsweredText(tuple(tokenizer.encode(samples[texts].text).ids[:most]), first + bos)
        for texts, first in CASES.items()
        if first is not None
    }
    if bos:  # before which there is a token
        expected.add(AnsweredText(tuple(tokenizer.encode("the cat").ids), bos))
    splits = [Split(tuple(samples.values()), (Sample("then", " it"),)), Split(tuple(samples.values())[:1], ())]
    found = answered_texts(tmp_path, splits, most)
    assert (set(found), len(found)) == (expected, len(expected))


def test_too_few_texts_with_an_answer_are_refused(tmp_path: Path) -> None:
    write_micro_tokenizer(tmp_path)
    assert len(answered_texts(tmp_path, [SPLIT], 3)) == 3
    asked = Split((Sample("it ran", ""),), ())
    with pytest.raises(InputError, match=r"^0 of 3 texts have an answer within 2 tokens, .*max_length"):
        answered_texts(tmp_path, [SPLIT, asked], 2)
    samples = (
        Sample("the cat", " sat"),
        Sample("the cat", "  sat"),
        Sample("the cat", "  "),
    )  # two of the same tokens
    with pytest.raises(InputError, match=r"^1 of 3 texts have an answer within 9 tokens"):
        answered_texts(tmp_path, [replace(SPLIT, calibration=samples)], 9)


@pytest.mark.parametrize(
    ("number", "settings", "num_held_out"),
    [(24, {}, 6), (100, {}, 25), (900, {}, 200), (100, {"held_out": 3}, 3), (100, {"samples": 30}, 25)],
)
def test_of_what_is_learnt_a_quarter_is_held_out_and_of_other_texts_less(
    tmp_path: Path, number: int, settings: dict[str, int], num_held_out: int
) -> None:
    rows = [{"a": f"cat {index}", "b": "mat" if index % 2 else "dog"} for index in range(number)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    read_as = 'corpus = "a.jsonl"\nprompt = "{a}"\ncompletion = "{b}"\n'
    for name, learn in (("learnt", "true"), ("plain", "false")):
        (tmp_path / f"{name}.toml").write_text(f"{read_as}learn = {learn}\n")
    tasks = parse_tasks([f"job={tmp_path}/a.jsonl:a:b", f"{tmp_path}/learnt.toml", f"{tmp_path}/plain.toml"])
    source = open_source(str(write_micro_model(tmp_path / "m", model_type="llama")))
    splits = split_tasks(source, tasks, CalibrationSettings(**settings))
    for name, form in (("job", Job("A: {a}\nB:", "\n", "b", ("dog", "mat"))), ("learnt", Job("{a}", "", "b"))):
        split = splits[name]
        assert (split.is_learnt, split.job, len(split.held_out)) == (True, form, num_held_out)
        assert len(split.calibration) == settings.get("samples", number - num_held_out)
    plain = splits["plain"]
    assert (plain.is_learnt, plain.job, len(plain.held_out)) == (False, None, min(num_held_out, 16))
    asked = split_tasks(source, tasks, CalibrationSettings(**settings, answers="model"))["job"]
    assert (asked.is_learnt, asked.job) == (False, None)  # the answers of the data are not used
