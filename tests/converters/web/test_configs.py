"""The JSON files beside the graph say what transformers.js has to know, and nothing that misleads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.editing import set_json
from support.models import write_source
from tokenizers import Tokenizer, processors

from converters.web.configs import web_files


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_source(tmp_path / "hf", "gemma3-all", pruned=True)


def written(source: Path, name: str) -> dict[str, Any]:
    content = web_files(source, "q4", 3)[name]
    assert isinstance(content, dict)
    return content


def test_config_has_the_largest_of_any_layer_and_is_a_llamas(source: Path) -> None:
    made = written(source, "config.json")
    assert (made["model_type"], made["architectures"]) == ("llama", ["LlamaForCausalLM"])
    heads = made["num_attention_heads"], made["num_key_value_heads"], made["intermediate_size"]
    assert heads == (6, 3, 80)
    assert made["transformers.js_config"]["use_external_data_format"] == {"model_q4.onnx": 3}
    assert not made.keys() & {"per_layer_config", "text_config", "auto_map", "layer_types"}


def test_null_is_no_token(source: Path) -> None:
    set_json(source / "generation_config.json", eos_token_id=None, temperature=0.6)
    set_json(source / "config.json", eos_token_id=[7, 8])
    made = written(source, "generation_config.json")
    assert made == {"bos_token_id": 1, "eos_token_id": [7, 8], "pad_token_id": 0, "temperature": 0.6}
    set_json(source / "generation_config.json", eos_token_id=9)
    assert written(source, "generation_config.json")["eos_token_id"] == 9
    (source / "generation_config.json").unlink()
    assert written(source, "generation_config.json")["eos_token_id"] == [7, 8]


def test_chat_template_is_in_the_tokenizers_config(source: Path) -> None:
    assert "chat_template" not in written(source, "tokenizer_config.json")
    set_json(source / "tokenizer_config.json", chat_template="own")
    assert written(source, "tokenizer_config.json")["chat_template"] == "own"
    (source / "chat_template.json").write_text('{"chat_template": "json"}', "utf-8")
    assert written(source, "tokenizer_config.json")["chat_template"] == "json"
    (source / "chat_template.jinja").write_text("{{ messages }}\n", "utf-8")
    assert written(source, "tokenizer_config.json")["chat_template"] == "{{ messages }}\n"
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "tool_use.jinja").write_text("tools", "utf-8")
    named = {"default": "{{ messages }}\n", "tool_use": "tools"}
    listed = [{"name": name, "template": template} for name, template in named.items()]
    assert written(source, "tokenizer_config.json")["chat_template"] == listed


def test_tokenizer_is_taken_as_it_is(source: Path) -> None:
    set_json(
        source / "tokenizer_config.json",
        tokenizer_class="LlamaTokenizer",
        auto_map={"AutoTokenizer": "x--y.Z"},
        add_bos_token=True,
        add_eos_token=True,
        padding_side="left",
    )
    path = str(source / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    tokenizer.enable_padding(length=4)
    tokenizer.save(path)
    made = written(source, "tokenizer_config.json")
    assert made["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert (made["padding_side"], made["clean_up_tokenization_spaces"]) == ("right", False)
    assert made["add_bos_token"] is False
    assert not made.keys() & {"auto_map", "add_eos_token"}
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.save(path)
    assert written(source, "tokenizer_config.json")["add_bos_token"] is True
