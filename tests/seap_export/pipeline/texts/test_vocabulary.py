"""All texts of a task decide which tokens are kept, with the words of the chat template."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.editing import edit_json
from support.models import write_micro_model
from support.product import Silent, Vocabulary, open_source
from support.progress import Listening
from support.tokenizers import write_byte_level
from tokenizers import Tokenizer

from seap_export.corpus import parse_tasks
from seap_export.errors import InputError
from seap_export.model.vocabulary import choice
from seap_export.model.vocabulary.choice import VocabularySize
from seap_export.pipeline.texts import vocabulary
from seap_export.pipeline.texts.vocabulary import choose_vocabularies


def _chosen(
    folder: Path,
    lines: dict[str, list[dict[str, str]]],
    size: VocabularySize = 60,
    progress: Silent | None = None,
    **mixtures: list[str],
) -> dict[str, Vocabulary]:
    for name, records in lines.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
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
