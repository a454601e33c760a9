"""Variants whose layers are alike run in optimum-onnx's own class, from its export or from our graph."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

if int(transformers.__version__.split(".")[0]) >= 5:
    pytest.skip("optimum-onnx 0.1 wants transformers below 4.58", allow_module_level=True)

from calibrated import micro_source, single, uniform_plan, whole_layer
from optimum.onnxruntime import ORTModelForCausalLM

from converters.onnx.folder import convert_folder
from seap_export.activations.statistics import Calibration
from seap_export.optimum_onnx import SeapORTModelForCausalLM
from seap_export.shrink.write import write_shrunk_model
from seap_export.sources.source import Source

BATCH = torch.tensor([[4, 5, 6, 7, 8], [9, 8, 4, 4, 17], [10, 11, 12, 13, 14]])
PADDED, MASK = torch.tensor([[0, 0, 4, 5, 6], [9, 8, 4, 4, 17]]), torch.tensor([[0, 0, 1, 1, 1], [1] * 5])
pytestmark = pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::UserWarning")
FAMILIES = ("llama-gqa", "mistral-window", "qwen2", "qwen3")


@pytest.fixture
def variant(tmp_path: Path, random_calibration: Callable[[Source], Calibration]) -> Callable[..., Path]:
    """`variant("qwen2")`: a folder with `hf/` and `onnx/`; with `whole_heads` only neurons are cut."""

    def make(variation: str, whole_heads: bool = False) -> Path:
        source = micro_source(tmp_path / "dense", variation)
        plan = uniform_plan(source, "one-shot")
        if whole_heads:
            layers = tuple(replace(whole_layer(own), neurons=tuple(range(48))) for own in source.spec.layers)
            plan = replace(plan, layers=layers)
        for part in ("hf", "onnx"):
            (tmp_path / "variant" / part).mkdir(parents=True)
        write_shrunk_model(source, plan, single(random_calibration(source)), tmp_path / "variant" / "hf")
        convert_folder(tmp_path / "variant" / "hf", tmp_path / "variant" / "onnx")
        return tmp_path / "variant"

    return make


def greedy(model: Any, ids: torch.Tensor, mask: torch.Tensor | None = None) -> list[list[int]]:
    mask = torch.ones_like(ids) if mask is None else mask
    return model.generate(ids, attention_mask=mask, max_new_tokens=20, do_sample=False).tolist()


def torch_model(folder: Path) -> transformers.PreTrainedModel:
    return transformers.AutoModelForCausalLM.from_pretrained(folder / "hf", dtype=torch.float32).eval()


@pytest.mark.parametrize("variation", FAMILIES)
def test_our_class_runs_it(variant: Callable[..., Path], variation: str) -> None:
    folder = variant(variation)
    assert greedy(SeapORTModelForCausalLM.from_pretrained(folder), BATCH) == greedy(torch_model(folder), BATCH)


@pytest.mark.parametrize("variation", FAMILIES)
def test_the_stock_class_exports_and_runs_it(variant: Callable[..., Path], variation: str) -> None:
    """With padding on the left, which our own graph does not read."""
    folder = variant(variation)
    stock = ORTModelForCausalLM.from_pretrained(folder / "hf", export=True)
    stock.embed_size_per_head = stock.config.head_dim
    wanted = torch_model(folder)
    assert greedy(stock, BATCH) == greedy(wanted, BATCH)
    assert greedy(stock, PADDED, MASK) == greedy(wanted, PADDED, MASK)


@pytest.mark.parametrize("variation", FAMILIES)
@pytest.mark.parametrize("use_io_binding", [False, True])
def test_the_stock_class_runs_our_graph(variant: Callable[..., Path], variation: str, use_io_binding: bool) -> None:
    folder = variant(variation)
    shutil.copy(folder / "hf" / "config.json", folder / "onnx")
    stock = ORTModelForCausalLM.from_pretrained(folder / "onnx", use_io_binding=use_io_binding)
    stock.embed_size_per_head = stock.config.head_dim
    assert greedy(stock, BATCH) == greedy(torch_model(folder), BATCH)


def test_the_stock_class_takes_the_hidden_size_over_the_heads_for_the_size_of_a_head(
    variant: Callable[..., Path],
) -> None:
    """Which is wrong where heads are cut, and right where all are kept."""
    cut = variant("llama-gqa")
    with pytest.raises(Exception, match="Got invalid dimensions for input: past_key_values"):
        greedy(ORTModelForCausalLM.from_pretrained(cut / "hf", export=True), BATCH)
    shutil.rmtree(cut)
    whole = variant("llama-gqa", whole_heads=True)
    assert greedy(ORTModelForCausalLM.from_pretrained(whole / "hf", export=True), BATCH) == greedy(
        torch_model(whole), BATCH
    )
