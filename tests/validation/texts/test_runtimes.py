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


# A runtime, what it is given, and how many conversations it renders of the two that the template takes.
@pytest.mark.parametrize(
    ("runtime", "named", "precision", "conversations"),
    [
        pytest.param(*case, id=case[0], marks=pytest.mark.needs(case[0]))
        for case in (
            ("llama.cpp", "gguf", "f32", 2),
            ("openvino", "openvino", "fp32", 2),
            ("transformers.js", "web", "fp32", 2),
            ("litert", "litert", "fp32", 1),
            ("executorch", "executorch", "fp32", 0),
        )
    ],
)
def test_a_runtime_agrees_and_another_tokenizer_does_not(
    tmp_path: Path, runtime: str, named: str, precision: str, conversations: int
) -> None:
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
    assert any(": token ids of " in reason for reason in figures.reasons), figures.reasons
