"""Tokenizers are written with their rule, special tokens and template, or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.corpora import micro_texts
from support.editing import edit_json, set_json
from support.tokenizers import write_byte_level, write_micro_tokenizer, write_sentencepiece
from support.variations import micro_config
from tokenizers import Tokenizer

from converters.gguf.tokenizer.vocabulary import tokenizer_metadata
from seap_export.errors import InputError
from seap_export.model.families import GgufForm, model_spec
from seap_export.model.sources.gguf.file import GgufFile
from seap_export.model.sources.gguf.tokenizers import gguf_tokenizer_files, split_rules, tokenizer_of

SPEC = model_spec(micro_config(model_type="llama", vocab_size=512))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(micro_config(model_type="llama", vocab_size=512)), "utf-8")
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 5]}), "utf-8")
    write_byte_level(tmp_path)
    return tmp_path


@pytest.mark.parametrize("write", [write_byte_level, write_sentencepiece])
def test_ids_are_the_same_when_read_back(folder: Path, write: Callable[[Path], None]) -> None:
    write(folder)
    before = Tokenizer.from_file(str(folder / "tokenizer.json"))
    cut = {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    set_json(folder / "tokenizer.json", truncation=cut)
    metadata = tokenizer_metadata(folder, SPEC)
    after = tokenizer_of(folder, metadata, SPEC.family)
    for text in (*micro_texts(50), "the <s> cat</s> on", " two  spaces\n", "unknown letters: ÄÖ日"):
        assert before.encode(text).ids == after.encode(text).ids
    assert len(metadata["tokenizer.ggml.tokens"]) == 512  # type: ignore[arg-type]


def test_special_tokens_and_the_template(folder: Path) -> None:
    metadata = tokenizer_metadata(folder, SPEC)
    written = {key.removeprefix("tokenizer.ggml."): value for key, value in metadata.items()}
    special = [written[f"{name}_token_id"] for name in ("eos", "eot", "bos", "padding")]
    assert special == [2, 5, 1, 0]
    assert (written["add_bos_token"], written["add_eos_token"]) == (False, False)
    config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    assert metadata["tokenizer.chat_template"] == config["chat_template"]
    assert written["token_type"][:4] == [3, 3, 3, 1]  # type: ignore[index]
    assert written["token_type"][-1] == 5  # type: ignore[index]
    write_sentencepiece(folder)
    written = tokenizer_metadata(folder, SPEC)
    scores = dict(zip(written["tokenizer.ggml.tokens"], written["tokenizer.ggml.scores"], strict=True))  # type: ignore[arg-type]
    merges = ["".join(pair) for pair in json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]["merges"]]
    assert [*dict.fromkeys(merges), "<unk>", "<s>"] == sorted(scores, key=scores.__getitem__)[::-1][
        : len(set(merges)) + 2
    ]
    assert written["tokenizer.ggml.add_bos_token"] is True
    assert written["tokenizer.ggml.unknown_token_id"] == 0


def test_a_template_in_a_file_of_its_own_counts(folder: Path) -> None:
    (folder / "chat_template.json").write_text('{"chat_template": "{{ old }}"}', "utf-8")
    assert tokenizer_metadata(folder, SPEC)["tokenizer.chat_template"] == "{{ old }}"
    (folder / "chat_template.jinja").write_text("{{ other }}", "utf-8")
    assert tokenizer_metadata(folder, SPEC)["tokenizer.chat_template"] == "{{ other }}"
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools }}", "utf-8")
    metadata = tokenizer_metadata(folder, SPEC)
    assert metadata["tokenizer.chat_templates"] == ["tool_use"]
    file = GgufFile(folder, {**metadata, "llama.context_length": 8}, {}, SPEC.family, GgufForm("llama"))
    written = json.loads(gguf_tokenizer_files(file)["tokenizer_config.json"])
    named = {"default": "{{ other }}", "tool_use": "{{ tools }}"}
    listed = [{"name": name, "template": template} for name, template in named.items()]
    assert written["chat_template"] == listed


@pytest.mark.parametrize("name", list(split_rules()))
def test_every_rule_is_recognised(folder: Path, name: str) -> None:
    given = split_rules()[name]
    parts = {key: given[key] for key in ("pre_tokenizer", "normalizer")}
    ignored = given["model"].get("ignore_merges")
    set_json(folder / "tokenizer.json", **parts)
    edit_json(folder / "tokenizer.json", lambda values: values["model"].update(ignore_merges=ignored))
    pre = str(tokenizer_metadata(folder, SPEC)["tokenizer.ggml.pre"])
    assert pre == name or split_rules()[pre] == given  # two rules may differ in what a file says by itself


FRAME = {"type": "BertProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1]}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda values: values["pre_tokenizer"].update(add_prefix_space=True), "no name for the rule"),
        (lambda values: values.update(normalizer={"type": "Lowercase"}), "no name for the rule"),
        (lambda values: values.update(post_processor=FRAME), "framed by BertProcessing"),
        (lambda values: values["model"]["vocab"].update(more=512), "token 512 has no embedding"),
    ],
    ids=["rule", "normalizer", "frame", "more tokens than embeddings"],
)
def test_what_llama_cpp_does_not_know_is_refused(
    folder: Path, change: Callable[[dict[str, Any]], object], reason: str
) -> None:
    edit_json(folder / "tokenizer.json", change)
    with pytest.raises(InputError, match=reason):
        tokenizer_metadata(folder, SPEC)


def test_words_and_too_many_ends_are_refused(folder: Path) -> None:
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 3, 4, 5]}), "utf-8")
    with pytest.raises(InputError, match="4 tokens end a text"):
        tokenizer_metadata(folder, SPEC)
    write_micro_tokenizer(folder)
    with pytest.raises(InputError, match="WordLevel"):
        tokenizer_metadata(folder, SPEC)
