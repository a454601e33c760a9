"""The tokenizer's files travel unchanged."""

from __future__ import annotations

import base64
import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import transformers
from support.editing import set_json
from support.exports import tree
from support.models import write_micro_model
from support.tokenizers import write_micro_tokenizer
from support.variations import FAMILIES, micro_config
from transformers import AutoTokenizer

from seap_export.errors import InputError
from seap_export.model.families import family_of_model_type
from seap_export.model.sources.open import open_source
from seap_export.model.sources.tokenizer import copy_tokenizer
from seap_export.model.sources.tokenizer_check import check_tokenizer


def test_every_known_file_is_copied_byte_for_byte_and_no_other(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for folder in (source / "additional_chat_templates", target):
        folder.mkdir(parents=True)
    write_micro_tokenizer(source)
    for name in ("chat_template.jinja", "tokenizer.model", "additional_chat_templates/tool_use.jinja", "config.json"):
        (source / name).write_bytes(b"{{ \x00\xff }}\r\n")
    copy_tokenizer(source, target)
    (source / "config.json").unlink()
    assert tree(target) == tree(source)


@pytest.mark.parametrize("config", [None, {}, {"unk_token": "<unk>", "tokenizer_class": None}])
def test_a_tokenizer_that_names_no_class_loads_beside_a_pruned_model(tmp_path: Path, config: dict | None) -> None:
    folder = write_micro_model(tmp_path / "micro", model_type="llama")
    (folder / "tokenizer_config.json").unlink()
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    target = tmp_path / "target"
    target.mkdir()
    open_source(str(folder)).write_tokenizer(target)
    (target / "config.json").write_text(json.dumps(micro_config(model_type="seap_llama")))
    assert dict(AutoTokenizer.from_pretrained(target)("the cat")) == {"input_ids": [4, 6], "attention_mask": [1, 1]}


@pytest.mark.skipif(transformers.__version__.startswith("4."), reason="transformers 4 goes by the class named")
@pytest.mark.parametrize("model_type", FAMILIES)
def test_whether_transformers_5_takes_tokenizer_json_as_it_is_is_known(tmp_path: Path, model_type: str) -> None:
    write_micro_tokenizer(tmp_path)
    set_json(tmp_path / "tokenizer_config.json", tokenizer_class="GPT2Tokenizer")
    (tmp_path / "config.json").write_text(json.dumps(micro_config(model_type=model_type)))
    class_name = type(AutoTokenizer.from_pretrained(tmp_path)).__name__
    assert (class_name == "TokenizersBackend") is family_of_model_type(model_type).tokenizer_json_as_it_is


def test_a_character_map_has_as_many_bytes_as_it_says(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    for size, expected in ((2, nullcontext()), (3, pytest.raises(InputError, match="shorter than declared"))):
        table = base64.b64encode(size.to_bytes(4, "little") + b"ab").decode()
        normalizer = {"type": "Sequence", "normalizers": [{"type": "Precompiled", "precompiled_charsmap": table}]}
        path.write_text(json.dumps({"normalizer": normalizer}), "utf-8")
        with expected:
            check_tokenizer(path)
