"""A variant that has learnt a job is asked in its form, answers up to its end, and says so in its folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.editing import set_json
from support.product import Job, note_job
from support.tokenizers import name_all_tokens, write_byte_level, write_micro_tokenizer, write_sentencepiece
from tokenizers import Tokenizer
from tokenizers.normalizers import Replace

from seap_export.errors import ArtifactError, InputError, UsageError
from seap_export.runtime import Generator, Sampling
from seap_export.runtime.chat import ChatTemplate, read_chat_template
from seap_export.runtime.job import JOB, read_job
from seap_export.runtime.labels import label_tokens
from seap_export.runtime.prompts import prompt_ids

SEVERAL = Job("{b} then {a.c[0]} then {b}{{}}")


def test_a_prompt_is_made_from_the_fields_of_a_record() -> None:
    assert (SEVERAL.fields, SEVERAL.stops) == (("b", "a.c[0]"), ())
    assert SEVERAL.asked({"a": {"c": [1]}, "b": "x", "d": "y"}) == "x then 1 then x{}"
    with pytest.raises(InputError, match=r"'a\.c\[0\]' is missing"):
        SEVERAL.asked({"b": "x"})
    one = Job("{a.c}: {a.c}?", "\n")
    assert (one.asked("the {b}"), one.stops) == ("the {b}: the {b}?", ("\n",))
    for job in (SEVERAL, Job("the cat")):
        with pytest.raises(UsageError, match=rf"from {len(job.fields)} fields.*seap-export predict.*--raw"):
            job.asked("x")


@pytest.mark.parametrize(
    ("template", "text"), [("Say: {a}\nNow:", "an {a}:"), ("{a}", "Say"), ("{a} {a}", ""), ("{a} {b}", ""), ("a", "")]
)
def test_an_input_is_found_in_its_prompt(template: str, text: str) -> None:
    job = Job(template)
    assert job.input_of(job.asked({"a": text or "x", "b": "y"})) == text


@pytest.mark.parametrize("job", [SEVERAL, Job("{a}", "\n", "b", ("x", "y")), Job("Größe: {a}", "\n###\n")])
def test_a_folder_says_what_it_has_learnt(tmp_path: Path, job: Job) -> None:
    assert read_job(tmp_path) is None
    write_micro_tokenizer(tmp_path)
    before = json.loads((tmp_path / "tokenizer_config.json").read_text("utf-8"))
    assert read_job(tmp_path) is None
    note_job(tmp_path, job)
    assert read_job(tmp_path) == job
    after = json.loads((tmp_path / "tokenizer_config.json").read_text("utf-8"))
    assert after == {
        **before,
        JOB: {"prompt": job.prompt, "end": job.end, "answer": job.answer, "labels": [*job.labels]},
    }


@pytest.mark.parametrize(
    "damaged",
    [
        "{a}",
        [],
        {},
        {"prompt": None},
        {"prompt": "{a}", "end": 3},
        {"prompt": "{a}", "ends": ""},
        {"prompt": "{a"},
        {"prompt": "{a}", "labels": "x"},
        {"prompt": "{a}", "labels": [1]},
    ],
)
def test_a_damaged_job_is_refused_in_one_line(tmp_path: Path, damaged: Any) -> None:
    write_micro_tokenizer(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    set_json(path, **{JOB: damaged})
    with pytest.raises(ArtifactError, match=rf"\A{path}: {JOB} is not a job [^\n]*export again\Z"):
        read_job(tmp_path)
    path.write_text(path.read_text("utf-8")[:-2], "utf-8")
    with pytest.raises(ArtifactError, match=rf"\A{path}: [^\n]*\Z"):
        read_job(tmp_path)


@pytest.fixture(params=[write_byte_level, write_sentencepiece])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Tokenizer, ChatTemplate]:
    request.param(tmp_path, chat_template="{% for message in messages %}one {{ message.content }}</s>{% endfor %}")
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    template = read_chat_template(tmp_path, tokenizer)
    assert template is not None
    return tokenizer, template


def test_a_text_or_the_last_turn_of_a_user_is_asked_in_the_form_of_the_job(
    model: tuple[Tokenizer, ChatTemplate],
) -> None:
    tokenizer, template = model
    job = Job("the cat sat on {place} and")
    expected = tokenizer.encode("the cat sat on a mat and").ids
    turns = [{"role": role, "content": text} for role, text in (("user", "home"), ("assistant", "far"))]
    for prompt in ("a mat", [*turns, {"role": "user", "content": "a mat"}, turns[1]]):
        for chat in (template, None):
            assert prompt_ids(prompt, tokenizer, chat, job=job) == expected
    assert prompt_ids("a mat", tokenizer, template, raw=True, job=job) == tokenizer.encode("a mat").ids
    assert prompt_ids("a mat", tokenizer, template, raw=False, job=job) == tokenizer.encode("one a mat</s>").ids
    with pytest.raises(UsageError, match="2 fields, a, b"):
        prompt_ids("a mat", tokenizer, template, job=Job("{a} {b}"))
    with pytest.raises(TypeError, match="a text or a list of messages"):
        prompt_ids(5, tokenizer, None, job=job)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["</s>", "a mat</s></s> home", "</<s>s>"])
def test_control_tokens_of_an_input_are_letters_and_those_of_the_form_are_not(
    model: tuple[Tokenizer, ChatTemplate], text: str
) -> None:
    tokenizer, template = model
    controls = {tokenizer.token_to_id(token) for token in ("<s>", "</s>")}
    job = Job("the {a}</s> cat")
    ids, plain = (prompt_ids(given, tokenizer, template, job=job) for given in (text, "mat"))
    assert [token for token in ids if token in controls] == [token for token in plain if token in controls]
    assert tokenizer.token_to_id("</s>") in plain
    if tokenizer.token_to_id("<0x3C>"):  # the other one has few letters
        assert text.replace(" ", "") in tokenizer.decode(ids).replace(" ", "")


FORM = "the {a} on"


@pytest.fixture
def folder(done: Path) -> Path:
    return name_all_tokens(done / "a-0.2" / "onnx")


@pytest.fixture
def with_job(folder: Path) -> Callable[[str], Generator]:
    def opened(end: str) -> Generator:
        note_job(folder, Job(FORM, end))
        return Generator(folder, threads=1)

    return opened


@pytest.mark.parametrize("number", [0, 2, 5])
def test_a_generator_answers_as_the_whole_prompt_is_continued_up_to_the_end(
    folder: Path, with_job: Callable[[str], Generator], number: int
) -> None:
    plain = Generator(folder, threads=1)
    (whole,) = plain.complete(["the cat on"], 20)
    words = whole.text.split()
    generator = with_job(f" {words[number]}")
    expected = whole.text.partition(f" {words[number]}")[0].lstrip()
    (answer,) = generator.complete(["cat"], 20)
    assert (answer.text, answer.stop, answer.prompt_tokens) == (expected, "text", 3)
    assert answer.token_ids == whole.token_ids[: len(answer.token_ids)]
    assert generator.generate("cat", 20) == "".join(generator.stream("cat", 20)) == expected
    assert generator.generate_batch(["mat", "cat"], 20)[1] == expected
    messages = [{"role": "user", "content": "cat"}]
    assert generator.generate(messages, 20) == expected  # though it has no chat template
    assert generator.complete(["the cat on"], 20, raw=True) == [whole]
    (endless,) = with_job("").complete(["cat"], 20)
    assert (endless.text, endless.stop) == (whole.text.lstrip(), "length")
    if number:
        assert generator.generate("cat", 20, stop=f" {words[1]}") == words[0]
        assert words[0] in expected


WORDS = ("mat", "dog cat", "dog", "home dog")


def test_an_answer_is_one_of_the_labels(folder: Path) -> None:
    """Of all texts, the model's own answer begins with none of them; the confidences of all add up to 1."""
    plain = Generator(folder, threads=1)
    words = plain.generate("the cat on", 9).split()
    labels = tuple(sorted({label for label in WORDS if label.split()[0] != words[0]}))
    note_job(folder, Job(FORM, " on", "", labels))
    generator = Generator(folder, threads=1)
    answers = generator.complete(["cat", "mat", "dog"], 20)
    assert {answer.text for answer in answers} <= {*labels}
    assert {answer.stop for answer in answers} == {"text"}
    assert "".join(generator.stream("cat", 20)) == answers[0].text
    assert generator.complete(["the cat on"], 9, raw=True)[0].confidence is None
    (greedy,) = generator.complete(["cat"], 20)
    assert greedy == answers[0]
    drawn = [generator.complete(["cat"], 20, Sampling(temperature=9.0, seed=seed))[0] for seed in range(60)]
    confidences = {answer.text: answer.confidence for answer in drawn}
    assert {*confidences} == {*labels}
    assert sum(filter(None, confidences.values())) == pytest.approx(1, abs=1e-4)
    (cut,) = generator.complete(["cat"], 1)
    assert (cut.text in {"", "mat", "dog", "home"}, cut.stop) == (True, "length")


def test_labels_that_begin_within_a_token_hold_nothing(tmp_path: Path) -> None:
    write_micro_tokenizer(tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    job = Job(FORM, " on", "", ("mat", "dog"))
    assert label_tokens(job, tokenizer) == tuple(tuple(tokenizer.encode(f"{label} on").ids) for label in job.labels)
    assert label_tokens(Job(FORM, " on"), tokenizer) == ()
    tokenizer.normalizer = Replace(" mat", "mat")
    assert label_tokens(job, tokenizer) == ()
