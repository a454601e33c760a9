"""Runtimes with a tokenizer of their own read, write and render what the model folder's files do."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.conversations import TEMPLATE
from support.corpora import WORDS, micro_texts
from support.editing import edit_json
from support.models import write_micro_model
from support.tokenizers import trained_byte_level, write_byte_level

from converters.formats import format_class
from validation.texts.compare import runtime_figures
from validation.texts.model import ModelTexts

#: What each is written as, and how many conversations it renders of the two that the template takes.
RUNTIMES = {
    "llama.cpp": ("gguf", "f32", 2),
    "openvino": ("openvino", "fp32", 2),
    "transformers.js": ("web", "fp32", 2),
    "litert": ("litert", "fp32", 1),
    "executorch": ("executorch", "fp32", 0),
}


@pytest.mark.parametrize("runtime", [pytest.param(name, marks=pytest.mark.needs(name)) for name in RUNTIMES])
def test_a_runtime_agrees_and_another_tokenizer_does_not(runtime: str, tmp_path: Path) -> None:
    named, precision, conversations = RUNTIMES[runtime]
    hf, folder = write_micro_model(tmp_path / "hf", vocab_size=400, model_type="llama"), tmp_path / "written"
    write_byte_level(hf, chat_template=TEMPLATE)
    tokenizer = trained_byte_level(micro_texts(50), 400, ("<pad>", "<s>", "</s>"))  # every byte has a token
    tokenizer.save(str(hf / "tokenizer.json"))
    folder.mkdir()
    format_class(named)(precision).write(hf, folder, lambda layer: None)
    prompts = [f" {' '.join(WORDS)}"]
    figures = runtime_figures(ModelTexts(hf), runtime, folder, prompts)
    assert figures is not None
    assert figures.reasons == ()
    assert figures.conversations == conversations
    edit_json(hf / "tokenizer.json", lambda values: values["model"]["merges"].pop(0))
    figures = runtime_figures(ModelTexts(hf), runtime, folder, prompts)
    assert figures is not None
    assert any(reason.startswith("prompt 0: token ids of ") for reason in figures.reasons), figures.reasons
