"""A runtime that reads, writes or renders a text otherwise than the model folder is named, and where it differs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from support.conversations import TEMPLATE
from support.corpora import WORDS, micro_texts
from support.editing import edit_json, set_json
from support.execution import ONE_THREAD
from support.models import write_micro_model
from support.tokenizers import trained_byte_level, write_byte_level, write_sentencepiece

from converters.formats import parse_format
from seap_export.errors import ParityFailure
from validation.runtimes.onnx_runtime.texts import OnnxTexts
from validation.runtimes.texts import Conversation
from validation.speed.engines import open_engine
from validation.speed.measure import SpeedCell
from validation.speed.memory import peak_memory
from validation.texts.compare import compare_texts, runtime_figures
from validation.texts.model import ModelTexts
from validation.texts.strings import CONVERSATIONS, HARD_STRINGS

WRITERS: dict[str, Callable[..., None]] = {"byte level": write_byte_level, "SentencePiece": write_sentencepiece}


@pytest.fixture(params=WRITERS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 2}), "utf-8")
    WRITERS[request.param](tmp_path, chat_template=TEMPLATE)
    return tmp_path


#: Whose tokenizer has a token for every byte.
RICH = pytest.mark.parametrize("folder", ["SentencePiece"], indirect=True)


class Wrong(OnnxTexts):
    """Reads, writes or renders some texts in another way."""

    read: Sequence[str] = ()
    written: Sequence[str] = ()
    rendered: Sequence[str] = ()

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        ids = super().encode(text, special=special)
        return [*ids[:1], 5, *ids[2:]] if text in [HARD_STRINGS[name] for name in self.read] else ids

    def decode(self, ids: Sequence[int]) -> str:
        text = super().decode(ids)
        return f"{text}." if list(ids) in [self.encode(HARD_STRINGS[name]) for name in self.written] else text

    def render(self, conversation: Conversation) -> str:
        text = super().render(conversation)
        return text.replace("12", "13") if conversation.name in self.rendered else text


def test_our_runtime_reads_and_writes_all_of_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ModelTexts(folder)
    figures = runtime_figures(model, "onnxruntime", folder, ["the cat", "a dog", "a cat", "the dog"])
    assert figures is not None
    assert (figures.reasons, figures.remarks) == ((), ())
    assert figures.strings > 10
    assert figures.conversations
    assert figures.to_json()["verdict"] == "passed"
    monkeypatch.setattr(OnnxTexts, "render", Mock(side_effect=ParityFailure("it has no templates")))
    refused = compare_texts(model, OnnxTexts(folder), (), "X")
    assert refused.reasons[0] == f"chat template, {CONVERSATIONS[0].name}: it has no templates"
    monkeypatch.setattr(OnnxTexts, "render", lambda *_: None)
    without = compare_texts(model, OnnxTexts(folder), (), "X")
    assert (without.conversations, without.reasons) == (0, ())


@RICH
def test_each_difference_is_named_with_its_place_unless_it_is_known(folder: Path) -> None:
    runtime, model = Wrong(folder), ModelTexts(folder)
    runtime.read, runtime.written, runtime.rendered = ["emoji"], ["tabs"], ["a question"]
    reasons = compare_texts(model, runtime, (), "X").reasons
    places = [
        ("tabs: the text of the tokens of '\\tone\\t\\ttwo \\t three': at ", "'.' in X and '' in the model"),
        (f"emoji: token ids of {HARD_STRINGS['emoji']!a}: at 1, [5", "] in the model"),
        ("chat template, a question: the text: at ", ""),
    ]
    for reason, (start, end) in zip(reasons, places, strict=True):
        assert reason.startswith(start)
        assert reason.endswith(end)
    assert "'3 + 30?" in reasons[2]
    assert all("\n" not in reason for reason in reasons)
    runtime.read, runtime.written, runtime.rendered = ["emoji", "tabs"], (), ()
    runtime.known = {"emoji": "it has no emoji"}  # type: ignore[misc]
    figures = compare_texts(model, runtime, (), "X")
    ((reason,), (remark,)) = figures.reasons, figures.remarks
    assert reason.startswith("tabs: ")
    assert remark.startswith("emoji: token ids of ")
    assert remark.endswith("(it has no emoji)")
    runtime.read = list(HARD_STRINGS)[5:25]
    many = compare_texts(model, runtime, (), "X")
    assert len(many.reasons) == 6
    assert many.reasons[-1] == f"{15 - len(many.remarks)} more texts differ in X"


@RICH
def test_ends_are_those_of_the_configs_and_of_a_turn(folder: Path) -> None:
    assert ModelTexts(folder).ends() == {2}
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 9]}), "utf-8")
    assert ModelTexts(folder).ends() == {2, 7, 9}  # a turn ends with token 2
    set_json(folder / "tokenizer_config.json", chat_template="{% for m in messages %}{{ m.content }}{% endfor %}")
    assert ModelTexts(folder).ends() == {7, 9}


#: Of a runtime what it is given, whether it takes batches, and how many it renders of the template's conversations.
RUNTIMES: dict[str, tuple[str, bool, int]] = {
    "llama.cpp": ("gguf:f32", False, 2), "openvino": ("openvino:fp32", True, 2),
    "transformers.js": ("web:fp32", False, 2), "litert": ("litert:fp32", False, 1),
    "executorch": ("executorch:fp32", False, 0),
}  # fmt: skip


@pytest.mark.parametrize("runtime", [pytest.param(name, marks=pytest.mark.needs(name)) for name in RUNTIMES])
def test_a_runtime_agrees_and_another_tokenizer_does_not(tmp_path: Path, runtime: Any) -> None:
    (named, takes_batches, conversations), prompts = RUNTIMES[runtime], [f" {' '.join(WORDS)}"]
    hf, folder = write_micro_model(tmp_path / "hf", vocab_size=400, model_type="llama"), tmp_path / "written"
    write_byte_level(hf, chat_template=TEMPLATE)
    tokenizer = trained_byte_level(micro_texts(50), 400, ("<pad>", "<s>", "</s>"))  # every byte has a token
    tokenizer.save(str(hf / "tokenizer.json"))
    folder.mkdir()
    format, precision = parse_format(named)
    format(str(precision)).write(hf, folder, lambda layer: None)
    figures = runtime_figures(ModelTexts(hf), runtime, folder, prompts)
    assert figures is not None
    assert figures.reasons == ()
    assert figures.conversations == conversations
    with open_engine(runtime, folder, 64, ONE_THREAD) as engine:
        assert engine.takes(2, 8) == takes_batches
        pace = engine.pace([[5, 6, 7], [8, 9, 10]][: 1 + takes_batches], 4)
    assert min(pace.first_s, *pace.steps_s) > 0
    assert len(pace.steps_s) == 4
    assert (peak_memory(runtime, folder, 64, ONE_THREAD, SpeedCell(1, 8)).host or 0) > 40e6
    edit_json(hf / "tokenizer.json", lambda values: values["model"]["merges"].pop(0))
    figures = runtime_figures(ModelTexts(hf), runtime, folder, prompts)
    assert figures is not None
    assert any(": token ids of " in reason for reason in figures.reasons), figures.reasons
