"""Greedy decoding gives transformers' tokens, and ends where it should; damaged folders are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from support.editing import edit_json
from tokenizers import Tokenizer, processors
from transformers import AutoModelForCausalLM

from seap_export.errors import ArtifactError, InputError, UsageError
from seap_export.runtime import Generator
from seap_export.runtime.files import decoder_options

PROMPT = "the cat sat on a mat and then it ran"


def greedy(model_folder: Path, ids: list[int], number: int) -> list[int]:
    """What transformers gives after `ids`."""
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    with torch.no_grad():
        generated = model.generate(torch.tensor([ids]), max_new_tokens=number, do_sample=False)
    return generated[0, len(ids) :].tolist()


@pytest.mark.parametrize("name", ["llama-mqa", "llama-yarn", "mistral-window", "qwen3"])
def test_dense_models_of_every_family_give_the_tokens_of_transformers(dense: Callable[..., Path], name: str) -> None:
    generator = Generator(dense(name))
    ids = generator.token_ids(PROMPT)
    assert generator.generate_ids(ids, 40) == greedy(dense(name).parent / "m", ids, 40)


@pytest.mark.parametrize(("variant", "prompt"), [("a-0.2", "the"), ("b-0.2", PROMPT)])
def test_pruned_variants_give_the_tokens_of_transformers(pristine: Path, variant: str, prompt: str) -> None:
    generator = Generator(pristine / variant / "onnx", threads=1)
    ids = generator.token_ids(prompt)
    assert generator.generate_ids(ids, 50) == greedy(pristine / variant / "hf", ids, 50)


def test_an_end_of_sequence_token_ends_it(done: Path) -> None:
    folder = done / "a-0.2" / "onnx"
    ids = Generator(folder).token_ids(PROMPT)
    long = Generator(folder).generate_ids(ids, 20)
    third = long[2]
    for eos in (third, [95, third]):
        edit_json(folder / "genai_config.json", lambda values, eos=eos: values["model"].update(eos_token_id=eos))
        assert Generator(folder).generate_ids(ids, 20) == long[: long.index(third) + 1]


@pytest.mark.parametrize("has_bos", [True, False])
def test_special_tokens_are_those_of_the_tokenizer_file(done: Path, has_bos: bool) -> None:
    folder = done / "a-0.2" / "onnx"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    plain = tokenizer.encode(PROMPT).ids
    if has_bos:
        tokenizer.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 1)])
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=64)
    tokenizer.save(str(folder / "tokenizer.json"))
    assert Generator(folder).token_ids(PROMPT) == [1] * has_bos + plain
    template = {"chat_template": "{{ bos_token }} {{ messages[0].content }}"}
    edit_json(folder / "tokenizer_config.json", lambda values: values.update(template))
    assert Generator(folder).token_ids(PROMPT) == [1, *plain]


def test_requests_that_mean_nothing(pristine: Path) -> None:
    generator = Generator(pristine / "a-0.2" / "onnx")
    with pytest.raises(UsageError, match="0 new tokens"):
        generator.generate("the", 0)
    with pytest.raises(InputError, match="has no token"):
        generator.generate("  ", 1)
    for nothing in (None, 5, b"the"):
        with pytest.raises(TypeError, match="a text or a list of messages"):
            generator.generate(nothing, 1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"give \[prompt\]"):
        generator.generate_batch("the", 1)


@pytest.mark.parametrize(
    ("name", "is_missing"),
    [("model.onnx", True), ("model.onnx.data", False), ("genai_config.json", False), ("tokenizer.json", True)],
)
def test_damaged_files_are_refused_in_one_line(done: Path, name: str, is_missing: bool) -> None:
    path = done / "a-0.2" / "onnx" / name
    path.unlink() if is_missing else path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ArtifactError) as caught:
        Generator(done / "a-0.2" / "onnx")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{done}/a-0.2/onnx/{name.removesuffix('.data')}: ")


@pytest.mark.parametrize("change", [{"eos_token_id": []}, {"eos_token_id": ["2"]}, {"context_length": "long"}])
def test_a_config_without_limits_is_refused(done: Path, change: dict[str, Any]) -> None:
    folder = done / "a-0.2" / "onnx"
    edit_json(folder / "genai_config.json", lambda values: values["model"].update(change))
    with pytest.raises(ArtifactError, match="eos_token_id or context_length"):
        Generator(folder)
    (folder / "genai_config.json").write_text('{"model": 1}')
    with pytest.raises(ArtifactError, match="eos_token_id or context_length"):
        Generator(folder)


def test_another_graph_is_refused(done: Path) -> None:
    folder = done / "a-0.2" / "onnx"
    graph = folder / "model.onnx"
    (folder / "model.onnx").write_bytes((done / "router" / "router.onnx").read_bytes())
    with pytest.raises(ArtifactError, match="its inputs are not those of a decoder with a KV cache"):
        Generator(folder)
    model = onnx.load(done / "b-0.2" / "onnx" / "model.onnx", load_external_data=False)
    next(node for node in model.graph.node if "present.1.key" in node.output).output[1] = "another"
    next(value for value in model.graph.output if value.name == "present.1.key").name = "another"
    graph.write_bytes(model.SerializeToString())
    (folder / "model.onnx.data").write_bytes((done / "b-0.2" / "onnx" / "model.onnx.data").read_bytes())
    with pytest.raises(ArtifactError, match="its outputs are not those of a decoder with a KV cache"):
        Generator(folder)


def test_provider_options_of_the_folder_and_the_users(done: Path) -> None:
    path = done / "a-0.2" / "onnx" / "genai_config.json"
    assert decoder_options(path, "cuda") == {}

    def for_cuda(values: dict[str, Any]) -> None:
        options = [{"cuda": {"enable_cuda_graph": "0", "of_genai": "2"}}]
        values["model"]["decoder"]["session_options"]["provider_options"] = options

    edit_json(path, for_cuda)
    assert decoder_options(path, "cpu") == {}
    assert decoder_options(path, "cuda", {"device_id": "1"}) == {"enable_cuda_graph": "1", "device_id": "1"}
    assert decoder_options(path, "cuda", {"enable_cuda_graph": "0"}) == {"enable_cuda_graph": "0"}
    assert Generator(path.parent).generate(PROMPT, 4)
    edit_json(path, lambda values: values["search"].update(past_present_share_buffer=False))
    assert decoder_options(path, "cuda") == {}
    for damage in (["cuda"], "cuda", 5, [{"cuda": 5}]):
        edit_json(
            path, lambda values, to=damage: values["model"]["decoder"]["session_options"].update(provider_options=to)
        )
        with pytest.raises(ArtifactError, match=r"genai_config\.json: its provider options cannot be read; .*again"):
            decoder_options(path, "cuda")
