"""Variants in optimum-onnx give the tokens of the torch model, and padding that they cannot read is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

if int(transformers.__version__.split(".")[0]) >= 5:
    pytest.skip("optimum-onnx 0.1 wants transformers below 4.58", allow_module_level=True)

from optimum.onnxruntime import ORTModelForCausalLM

from converters.onnx.folder import convert_folder
from converters.onnx.form import OnnxForm
from converters.onnx.precision import choose_precision
from seap_export.errors import ArtifactError, EnvironmentFailure, InputError, UsageError
from seap_export.optimum_onnx import SeapORTModelForCausalLM

Pristine = Callable[[str], Path]

BATCH = torch.tensor([[4, 5, 6, 7, 8], [9, 8, 4, 4, 17], [10, 11, 12, 13, 14]])
ONES = torch.ones_like(BATCH)


def torch_model(folder: Path) -> transformers.PreTrainedModel:
    return transformers.AutoModelForCausalLM.from_pretrained(folder / "hf", dtype=torch.float32).eval()


def greedy(model: Any, ids: torch.Tensor, **options: Any) -> list[list[int]]:
    options = {"max_new_tokens": 30, "do_sample": False, "attention_mask": torch.ones_like(ids), **options}
    return model.generate(ids, **options).tolist()


@pytest.mark.parametrize("name", ["llama-gqa", "llama-yarn", "mistral-window", "qwen2", "qwen3"])
def test_generates_the_tokens_of_the_torch_model(pristine: Pristine, name: str) -> None:
    ours, theirs = SeapORTModelForCausalLM.from_pretrained(pristine(name)), torch_model(pristine(name))
    assert greedy(ours, BATCH) == greedy(theirs, BATCH)
    for ids in (BATCH[:1, :1], BATCH[1:2], BATCH[2:, :3]):
        assert greedy(ours, ids) == greedy(theirs, ids)


@pytest.mark.parametrize("options", [{"use_cache": False}, {"use_io_binding": True}], ids=str)
def test_options_of_the_stock_class_change_no_token(pristine: Pristine, options: dict[str, Any]) -> None:
    folder = pristine("llama-gqa")
    ours = SeapORTModelForCausalLM.from_pretrained(str(folder), **options)
    assert greedy(ours, BATCH) == greedy(torch_model(folder), BATCH)


def test_beams(pristine: Pristine) -> None:
    folder = pristine("qwen2")
    ours = SeapORTModelForCausalLM.from_pretrained(folder)
    assert greedy(ours, BATCH, num_beams=3) == greedy(torch_model(folder), BATCH, num_beams=3)


def test_each_layer_has_a_cache_of_its_own_shape(pristine: Pristine) -> None:
    folder = pristine("llama-gqa")
    ours = SeapORTModelForCausalLM.from_pretrained(folder)
    first = ours(BATCH[:, :4])
    shapes = [tuple(part.shape) for layer in first.past_key_values for part in layer]
    assert shapes == [(3, heads, 4, 16) for heads in (3, 3, 2, 2, 1, 1)]
    second = ours(BATCH[:, 4:], past_key_values=first.past_key_values)
    with torch.no_grad():
        wanted = torch_model(folder)(BATCH).logits
    torch.testing.assert_close(torch.cat([first.logits, second.logits], 1), wanted, rtol=0, atol=1e-4)
    assert ours(BATCH, use_cache=False).past_key_values is None


def test_graphs_written_elsewhere_and_otherwise(pristine: Pristine, tmp_path: Path) -> None:
    folder = pristine("llama-gqa")
    wanted = torch_model(folder)
    for name, tolerance in (("fp32", 1e-4), ("fp16", 0.05), ("int8", 1.0)):
        (tmp_path / name).mkdir()
        convert_folder(folder / "hf", tmp_path / name, OnnxForm(choose_precision(name), logits="last"))
        ours = SeapORTModelForCausalLM.from_pretrained(tmp_path / name, config=folder / "hf")
        logits = ours(BATCH).logits
        assert logits.shape == (3, 1, 96)
        with torch.no_grad():
            torch.testing.assert_close(logits, wanted(BATCH).logits[:, -1:], rtol=0, atol=tolerance)
        for use_io_binding in (False, True):
            ours.use_io_binding = use_io_binding
            tokens = greedy(ours, BATCH, min_new_tokens=5, max_new_tokens=5)
            assert name != "fp32" or tokens == greedy(wanted, BATCH, min_new_tokens=5, max_new_tokens=5)


def test_forward_reads_right_padding(pristine: Pristine) -> None:
    ours = SeapORTModelForCausalLM.from_pretrained(pristine("llama-gqa"))
    mask = ONES.clone()
    mask[1, 3:] = 0
    padded, alone = ours(BATCH, mask).logits[1, :3], ours(BATCH[1:2, :3]).logits[0]
    torch.testing.assert_close(padded, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("column", [0, -1], ids=["left", "right"])
def test_generate_refuses_padding(pristine: Pristine, column: int) -> None:
    ours = SeapORTModelForCausalLM.from_pretrained(pristine("llama-gqa"))
    mask = ONES.clone()
    mask[1, column] = 0
    with pytest.raises(InputError, match=r"padded; .*generate\(\)"):
        greedy(ours, BATCH, attention_mask=mask)
    ids = BATCH.masked_fill(mask == 0, 0)  # the padding token, of which `generate` itself makes a mask
    with pytest.raises(InputError, match="call it once"):
        greedy(ours, ids, attention_mask=None)


def test_forward_refuses_left_padding(pristine: Pristine) -> None:
    ours = SeapORTModelForCausalLM.from_pretrained(pristine("llama-gqa"))
    mask = ONES.clone()
    mask[2, 0] = 0
    with pytest.raises(InputError, match="attention_mask is padded on the left"):
        ours(BATCH, mask)


def test_it_ends_where_the_generation_config_says(variant: Path) -> None:
    long = greedy(SeapORTModelForCausalLM.from_pretrained(variant), BATCH[:1])[0]
    end = next(token for token in long[7:] if token not in long[:7])
    cut = long[: long.index(end) + 1]
    (variant / "hf" / "generation_config.json").write_text(json.dumps({"eos_token_id": end, "pad_token_id": 0}))
    assert greedy(SeapORTModelForCausalLM.from_pretrained(variant), BATCH[:1])[0] == cut
    (variant / "hf" / "generation_config.json").unlink()
    config = json.loads((variant / "hf" / "config.json").read_text())
    (variant / "hf" / "config.json").write_text(json.dumps({**config, "eos_token_id": end}))
    assert greedy(SeapORTModelForCausalLM.from_pretrained(variant), BATCH[:1])[0] == cut


def test_the_onnx_folder_and_a_saved_model_load_too(variant: Path, tmp_path: Path) -> None:
    model = SeapORTModelForCausalLM.from_pretrained(variant / "onnx")
    model.save_pretrained(tmp_path / "saved")
    wanted = greedy(model, BATCH)
    shutil.rmtree(variant)
    assert greedy(SeapORTModelForCausalLM.from_pretrained(tmp_path / "saved"), BATCH) == wanted


def test_a_pipeline_takes_it(pristine: Pristine) -> None:
    folder = pristine("llama-gqa")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "hf")
    ours, theirs = (
        transformers.pipeline("text-generation", model=model, tokenizer=tokenizer, device="cpu")
        for model in (SeapORTModelForCausalLM.from_pretrained(folder), torch_model(folder))
    )
    assert ours("the cat sat", max_new_tokens=8, do_sample=False) == theirs(
        "the cat sat", max_new_tokens=8, do_sample=False
    )


@pytest.mark.parametrize(
    "name", ["onnx/model.onnx", "onnx/model.onnx.data", "hf/config.json", "hf/generation_config.json"]
)
@pytest.mark.parametrize("is_missing", [True, False])
def test_damaged_files_are_refused_in_one_line(variant: Path, name: str, is_missing: bool) -> None:
    path = variant / name
    path.unlink() if is_missing else path.write_bytes(path.read_bytes()[:20])
    if name == "hf/generation_config.json" and is_missing:
        assert SeapORTModelForCausalLM.from_pretrained(variant).generation_config.eos_token_id == 2
        return
    with pytest.raises(ArtifactError) as caught:
        SeapORTModelForCausalLM.from_pretrained(variant)
    assert str(caught.value).startswith(f"{variant}/{name.removesuffix('.data')}: ")
    assert str(caught.value).endswith("export again")
    assert "\n" not in str(caught.value)


def test_what_it_does_not_do(variant: Path) -> None:
    with pytest.raises(UsageError, match="leave out export=True"):
        SeapORTModelForCausalLM.from_pretrained(variant, export=True)
    with pytest.raises(
        ArtifactError, match=r"some/hub-id/onnx/model\.onnx: no such file; give the folder of a variant"
    ):
        SeapORTModelForCausalLM.from_pretrained("some/hub-id")
    shutil.move(variant / "onnx", variant.parent / "onnx")
    with pytest.raises(ArtifactError, match=r"hf/config\.json: no such file"):
        SeapORTModelForCausalLM.from_pretrained(variant.parent / "onnx")


def test_a_provider_that_cannot_be_created(variant: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SeapORTModelForCausalLM, "provider", "CPUExecutionProvider")
    with pytest.raises(EnvironmentFailure, match="CUDAExecutionProvider could not be created; use provider='CPU"):
        SeapORTModelForCausalLM.from_pretrained(variant, providers=["CUDAExecutionProvider", "CPUExecutionProvider"])


def test_the_stock_class_does_not_run_a_variant(variant: Path) -> None:
    with pytest.raises(ValueError, match="library name could not be automatically inferred"):
        ORTModelForCausalLM.from_pretrained(variant / "onnx")
    shutil.copy(variant / "hf" / "config.json", variant / "onnx")
    stock = ORTModelForCausalLM.from_pretrained(variant / "onnx")
    with pytest.raises(Exception, match="Got invalid dimensions for input: past_key_values"):
        greedy(stock, BATCH)
