"""Folders for transformers.js: what they hold, what is read back from them, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file
from support.chosen import JOINT, in_turn
from support.editing import set_json
from support.formats.web import WebModel
from support.formats.web_faults import FAULTS, QUANTISED, Edit
from support.models import write_source
from support.product import round_weights
from support.variations import VARIATIONS, micro_config
from tokenizers import Tokenizer, processors

from converters.web import WebFormat, data_files
from converters.web.configs import web_files
from converters.web.graph import KEPT
from converters.web.precisions import file_name, precision_of
from seap_export.common.json_file import read_json
from seap_export.model.families import model_spec
from seap_export.runtime.session import open_session


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str, bool], WebModel]:
    """Writes each model once; not to be changed."""

    @cache
    def make(variation: str, precision: str, pruned: bool) -> WebModel:
        folder = tmp_path_factory.mktemp("web")
        return WebModel.of(WebFormat(precision), write_source(folder / "hf", variation, pruned=pruned))

    return make


@pytest.fixture
def webbed(made: Callable[[str, str, bool], WebModel], tmp_path: Path) -> Callable[..., WebModel]:
    """`webbed("qwen3", "q4", pruned=True)`: a copy to tamper with."""

    def copy(variation: str = "llama-biases", precision: str = "fp32", *, pruned: bool = True) -> WebModel:
        model = made(variation, precision, pruned)
        return replace(model, folder=Path(shutil.copytree(model.folder, tmp_path / model.folder.name)))

    return copy


def read_back(model: Any) -> dict[str, torch.Tensor]:
    weights = model.format.weights(model.folder, model.spec)
    return {name: weights.read([name])[name] for name in load_file(model.source / "model.safetensors")}


_ROUNDED = (("llama-biases", "q8"), ("gemma3-all", "q4"), ("phi3-all", "fp16"), ("llama-biases", "q4f16"))


@pytest.mark.parametrize(
    ("variation", "how"),
    [*in_turn(JOINT, [("fp32", False), ("fp32", True)]), *((name, (precision, True)) for name, precision in _ROUNDED)],
)
def test_what_is_read_back_is_the_model_or_its_rounding(
    webbed: Callable[..., Any], variation: str, how: tuple[str, bool]
) -> None:
    precision, pruned = how
    model = webbed(variation, precision, pruned=pruned)
    assert model.complaints() == []
    assert model.layers == (0, 1, 2)
    stored = {name: tensor.float() for name, tensor in load_file(model.source / "model.safetensors").items()}
    change = round_weights(model.spec, precision_of(precision))
    expected, read = stored if change is None else change(stored), read_back(model)
    near = {"rtol": 0, "atol": 1e-6} if precision == "fp32" else {"rtol": 2e-3, "atol": 1e-3}
    for name, tensor in read.items():
        torch.testing.assert_close(tensor, expected[name], **near, msg=name)
    matrix = model.spec.family.stored("embed_tokens")
    assert precision == "fp32" or not torch.equal(read[matrix], stored[matrix])


def test_the_logits_of_as_many_last_tokens_are_given_as_are_asked_for(webbed: Callable[..., Any]) -> None:
    model, ids = webbed(), np.array([[4, 5, 6]])
    session = open_session(model.graph, "cpu", 1)
    past = [item for item in session.get_inputs() if item.name.startswith("past")]
    feeds = {item.name: np.zeros((1, item.shape[1], 0, item.shape[3]), np.float32) for item in past}
    feeds |= {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    every, last = (session.run(["logits"], {**feeds, KEPT: np.array(kept)})[0] for kept in (0, 2))
    np.testing.assert_allclose(last, every[:, 1:], rtol=1e-5)


def test_data_are_divided_and_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 75_000
    monkeypatch.setattr(data_files, "CHUNK_BYTES", limit)
    model = WebModel.of(WebFormat("fp32"), write_source(tmp_path / "hf", "llama-gqa", pruned=False))
    sizes = [path.stat().st_size for path in model.graph.parent.glob("*_data*")]
    assert len(sizes) > 5
    assert max(sizes) <= limit
    config = read_json(model.folder / "config.json")["transformers.js_config"]
    assert config["use_external_data_format"] == {"model.onnx": len(sizes)}
    assert model.data.with_name(f"model.onnx_data_{len(sizes) - 1}").is_file()
    assert model.layers == (0, 1, 2)
    assert model.complaints() == []
    stored = load_file(model.source / "model.safetensors")
    assert all(torch.equal(tensor, stored[name]) for name, tensor in read_back(model).items())


def test_rows_of_no_whole_blocks_stay_as_they_are(tmp_path: Path) -> None:
    model = WebModel.of(WebFormat("q4"), write_source(tmp_path / "hf", "llama-tied", pruned=False, hidden_size=72))
    assert model.complaints() == []
    stored, read = load_file(model.source / "model.safetensors"), read_back(model)
    table, matrix = "model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(read[table], stored[table])
    assert not torch.equal(read[matrix], stored[matrix])


def test_tensors_that_no_browser_holds_are_refused(webbed: Callable[..., Any]) -> None:
    model = webbed("llama-tied", pruned=False)
    spec = replace(model.spec, vocab_size=30_000_000)
    reason = WebFormat("fp32").refusal(spec, model.source)
    assert reason is not None
    assert "11.5 GB" in reason
    assert reason.endswith("use web:q4")
    assert WebFormat("q4").refusal(spec, model.source) is None
    assert "use another format" in str(WebFormat("fp32").refusal(replace(spec, vocab_size=300_000_000), model.source))
    assert WebFormat("fp32").refusal(model.spec, model.source) is None


@pytest.mark.parametrize(
    ("variation", "precision", "words"),
    [
        ("gemma2-all", "q8", "WebGPU ignores the soft cap"),
        ("gemma4-all", "q8", None),
        ("qwen3_5-all", "q4f16", "WebGPU has no recurrence in float16"),
        ("qwen3_5-all", "q4", None),
        ("lfm2-all", "fp16", None),
        ("olmoe", "q4", "WebGPU computes this model's rounded experts wrongly"),
        ("olmoe", "fp16", None),
    ],
)
def test_models_that_webgpu_does_not_compute_are_remarked_on(
    variation: str, precision: str, words: str | None
) -> None:
    remark = WebFormat(precision).remark(model_spec(micro_config(**VARIATIONS[variation])))
    assert remark is None if words is None else words in str(remark)


@pytest.mark.parametrize(("variation", "precision"), [("olmoe", "fp32"), ("gpt_oss-all", "q8"), ("olmoe", "q4")])
def test_mixtures_are_written(webbed: Callable[..., Any], variation: str, precision: str) -> None:
    """Without attributes of QMoE that ONNX Runtime 1.30, which transformers.js has in Node, does not know."""
    model = webbed(variation, precision, pruned=False)
    assert model.complaints() == []
    assert model.format.size(model.spec) == pytest.approx(model.data.stat().st_size, rel=0.03)
    nodes = onnx.load(model.graph, load_external_data=False).graph.node
    (names,) = {
        frozenset(attribute.name for attribute in node.attribute)
        for node in nodes
        if node.op_type == ("MoE" if precision == "fp32" else "QMoE")
    }
    assert not names & {"accuracy_level", "weights_prepacked"}


def test_no_attention_is_without_sinks_where_webgpu_would_compute_wrongly(webbed: Callable[..., Any]) -> None:
    model = webbed("llama-tied", pruned=True)
    graph = onnx.load(model.folder / "onnx" / file_name(model.format.precision), load_external_data=False).graph
    attention = [node for node in graph.node if node.op_type == "GroupQueryAttention"]
    assert attention
    sinks = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer if "sinks" in tensor.name}
    for node in attention:
        (heads,) = (attribute.i for attribute in node.attribute if attribute.name == "num_heads")
        assert sinks[node.input[11]].shape == (heads,)
        assert (sinks[node.input[11]] < -1e4).all()


CASES = [(*fault, "fp32") for fault in FAULTS]
CASES += [(*fault, precision) for fault, precision in zip(QUANTISED, ("q8", "q4", "q8"), strict=True)]


@pytest.mark.planted("web")
@pytest.mark.parametrize(("edit", "word", "precision"), [case[1:] for case in CASES], ids=[name for name, *_ in CASES])
def test_fault_is_found(webbed: Callable[..., Any], edit: Edit, word: str, precision: str) -> None:
    model = webbed(precision=precision)
    edit(model)
    lines = model.complaints()
    assert any(word in line for line in lines), lines
    assert all("\n" not in line for line in lines)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_source(tmp_path / "hf", "gemma3-all", pruned=True)


def config_in(source: Path, name: str) -> dict[str, Any]:
    content = web_files(source, "q4", 3)[name]
    assert isinstance(content, dict)
    return content


def test_null_is_no_token(source: Path) -> None:
    set_json(source / "generation_config.json", eos_token_id=None, temperature=0.6)
    set_json(source / "config.json", eos_token_id=[7, 8])
    made = config_in(source, "generation_config.json")
    assert made == {"bos_token_id": 1, "eos_token_id": [7, 8], "pad_token_id": 0, "temperature": 0.6}
    set_json(source / "generation_config.json", eos_token_id=9)
    assert config_in(source, "generation_config.json")["eos_token_id"] == 9
    (source / "generation_config.json").unlink()
    assert config_in(source, "generation_config.json")["eos_token_id"] == [7, 8]


def test_chat_template_is_in_the_tokenizers_config(source: Path) -> None:
    assert "chat_template" not in config_in(source, "tokenizer_config.json")
    set_json(source / "tokenizer_config.json", chat_template="own")
    assert config_in(source, "tokenizer_config.json")["chat_template"] == "own"
    (source / "chat_template.json").write_text('{"chat_template": "json"}', "utf-8")
    assert config_in(source, "tokenizer_config.json")["chat_template"] == "json"
    (source / "chat_template.jinja").write_text("{{ messages }}\n", "utf-8")
    assert config_in(source, "tokenizer_config.json")["chat_template"] == "{{ messages }}\n"
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "tool_use.jinja").write_text("tools", "utf-8")
    named = {"default": "{{ messages }}\n", "tool_use": "tools"}
    listed = [{"name": name, "template": template} for name, template in named.items()]
    assert config_in(source, "tokenizer_config.json")["chat_template"] == listed


def test_config_and_tokenizer_are_what_any_reader_takes(source: Path) -> None:
    """Sizes are the largest of any layer, and those of a Llama; the tokenizer is its file."""
    made = config_in(source, "config.json")
    assert (made["model_type"], made["architectures"]) == ("llama", ["LlamaForCausalLM"])
    assert (made["num_attention_heads"], made["num_key_value_heads"], made["intermediate_size"]) == (6, 3, 80)
    assert made["transformers.js_config"]["use_external_data_format"] == {"model_q4.onnx": 3}
    assert not made.keys() & {"per_layer_config", "text_config", "auto_map", "layer_types"}

    code = {"tokenizer_class": "LlamaTokenizer", "auto_map": {"AutoTokenizer": "x--y.Z"}}
    set_json(source / "tokenizer_config.json", **code, add_bos_token=True, add_eos_token=True, padding_side="left")
    path = str(source / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    tokenizer.enable_padding(length=4)
    tokenizer.save(path)
    made = config_in(source, "tokenizer_config.json")
    assert made["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert (made["padding_side"], made["clean_up_tokenization_spaces"]) == ("right", False)
    assert made["add_bos_token"] is False
    assert not made.keys() & {"auto_map", "add_eos_token"}
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.save(path)
    assert config_in(source, "tokenizer_config.json")["add_bos_token"] is True
