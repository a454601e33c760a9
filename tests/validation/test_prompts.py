from __future__ import annotations

from pathlib import Path

import pytest
from micro import write_micro_model

from validation.prompts import predicted_bytes, tokenize_prompts

TEXTS = ["apples and pears", "größe, 大きい", "x"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_micro_model(folder, model_type="llama")
    return folder


def _tokens(folder: Path, texts: list[str], most: int) -> tuple[tuple[int, ...], ...]:
    return tokenize_prompts(folder, texts, max_tokens=most, vocab_size=10**6)


def _with_bos(folder: Path) -> None:
    """Lets the tokenizer add a token before every text and one behind it."""
    from tokenizers import Tokenizer, processors

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    name = tokenizer.id_to_token(0)
    template = processors.TemplateProcessing(single=f"{name} $A {name}", special_tokens=[(name, 0)])
    tokenizer.post_processor = template
    tokenizer.save(str(folder / "tokenizer.json"))


def test_bytes_of_a_whole_text_but_its_first_token(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        tokens = _tokens(folder, [text], 999)
        first = tokenizer(text, return_offsets_mapping=True).offset_mapping[0][1]
        assert predicted_bytes(folder, [text], tokens) == len(text[first:].encode("utf-8"))


def test_a_text_that_is_cut_counts_as_far_as_it_is_read(folder: Path) -> None:
    whole = predicted_bytes(folder, TEXTS[:1], _tokens(folder, TEXTS[:1], 999))
    cut = predicted_bytes(folder, TEXTS[:1], _tokens(folder, TEXTS[:1], 2))
    assert 0 < cut < whole
    assert predicted_bytes(folder, TEXTS[:1], _tokens(folder, TEXTS[:1], 1)) == 0


def test_texts_add_up(folder: Path) -> None:
    each = [predicted_bytes(folder, [text], _tokens(folder, [text], 999)) for text in TEXTS]
    assert predicted_bytes(folder, TEXTS, _tokens(folder, TEXTS, 999)) == sum(each)


def test_tokens_that_the_tokenizer_adds_stand_for_nothing(tmp_path: Path) -> None:
    """With a token before the text, all of its bytes are predicted."""
    write_micro_model(tmp_path, model_type="llama")
    _with_bos(tmp_path)
    for text in TEXTS:
        tokens = _tokens(tmp_path, [text], 999)
        assert tokens[0][0] == tokens[0][-1] == 0
        assert predicted_bytes(tmp_path, [text], tokens) == len(text.encode("utf-8"))
