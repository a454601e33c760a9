"""A micro model with a byte-level BPE tokenizer, as a model folder and as an ONNX folder, and questions for it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from support.corpora import WORDS, micro_texts
from support.models import write_micro_model

from validation.zero_shot import Question


def write_bpe_tokenizer(folder: Path, vocab_size: int) -> None:
    """Trained on the micro texts, so that some words are one token and others several."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(micro_texts(40), trainer)
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `hf` and `onnx`; not to be changed."""
    from support.product import convert_folder

    folder = tmp_path_factory.mktemp("zero_shot")
    write_micro_model(folder / "hf", vocab_size=280, max_position_embeddings=64, model_type="llama")
    write_bpe_tokenizer(folder / "hf", 280)
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
