"""A micro model with a byte-level BPE tokenizer, as a model folder and as an ONNX folder, and questions for it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from support.corpora import WORDS, micro_texts
from support.models import write_micro_model
from support.tokenizers import trained_byte_level

from validation.zero_shot import Question


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `hf` and `onnx`; not to be changed."""
    from support.product import convert_folder

    folder = tmp_path_factory.mktemp("zero_shot")
    write_micro_model(folder / "hf", vocab_size=280, max_position_embeddings=64, model_type="llama")
    tokenizer = trained_byte_level(micro_texts(40), 280, ["<pad>", "<s>", "</s>"])  # some words are several tokens
    tokenizer.save(str(folder / "hf" / "tokenizer.json"))
    (folder / "onnx").mkdir()
    convert_folder(folder / "hf", folder / "onnx")
    return folder


@pytest.fixture(scope="session")
def questions() -> list[Question]:
    """40 questions of 2 to 4 choices, each choice of 1 to 5 words after a space."""
    chance = random.Random(3)
    made = []
    for prompt in micro_texts(40, seed=9):
        number = chance.randint(2, 4)
        choices = tuple(" " + " ".join(chance.choices(WORDS, k=chance.randint(1, 5))) for _ in range(number))
        made.append(Question(prompt, choices, chance.randrange(number)))
    return made
