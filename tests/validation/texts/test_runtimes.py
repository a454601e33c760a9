"""Other runtimes read, write and render what the model folder's files do, and their time and memory are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.conversations import TEMPLATE
from support.corpora import WORDS, micro_texts
from support.editing import edit_json
from support.execution import ONE_THREAD
from support.models import write_micro_model
from support.tokenizers import trained_byte_level, write_byte_level

from converters.formats import format_class
from validation.speed.engines import open_engine
from validation.speed.measure import SpeedCell
from validation.speed.memory import peak_memory
from validation.texts.compare import runtime_figures
from validation.texts.model import ModelTexts


# A runtime, what it is given, whether it takes batches, and how many conversations it renders of the template's two.
@pytest.mark.parametrize(
    ("runtime", "named", "takes_batches", "conversations"),
    [
        pytest.param(*case, id=case[0], marks=pytest.mark.needs(case[0]))
        for case in (
            ("llama.cpp", "gguf", False, 2),
            ("openvino", "openvino", True, 2),
            ("transformers.js", "web", False, 2),
            ("litert", "litert", False, 1),
            ("executorch", "executorch", False, 0),
        )
    ],
)
def test_a_runtime_agrees_and_another_tokenizer_does_not(
    tmp_path: Path, runtime: Any, named: str, takes_batches: bool, conversations: int
) -> None:
    hf, folder = write_micro_model(tmp_path / "hf", vocab_size=400, model_type="llama"), tmp_path / "written"
    write_byte_level(hf, chat_template=TEMPLATE)
    tokenizer = trained_byte_level(micro_texts(50), 400, ("<pad>", "<s>", "</s>"))  # every byte has a token
    tokenizer.save(str(hf / "tokenizer.json"))
    folder.mkdir()
    format_class(named)("f32" if named == "gguf" else "fp32").write(hf, folder, lambda layer: None)
    prompts = [f" {' '.join(WORDS)}"]
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
