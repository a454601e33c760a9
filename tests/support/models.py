"""Model folders of micro models, made on the fly, and what transformers' own classes compute with them."""

from __future__ import annotations

import json
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from unittest import mock

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from seap_export.model.families import Family, family_of_model_type, model_spec
from seap_export.model.families.names import LAYER_INPUTS, OUTPUTS, Projection
from seap_export.model.sources.config import read_spec
from seap_export.model.sources.open import open_source
from seap_export.model.sources.source import Source
from seap_export.model.sources.stored import PlainReader, StoredForm
from seap_export.model.sources.weights import SafetensorsReader
from seap_export.pruning.plan.settings import Layout
from seap_export.pruning.rounding.grid import BlockQuantization
from seap_export.pruning.rounding.note import RoundingNote
from seap_export.pruning.rounding.scales import best_scales, kept_scales, on_grid, padded_blocks
from seap_export.pruning.rounding.write import write_other_files
from support.corpora import Texts
from support.tokenizers import write_micro_tokenizer
from support.uneven import pruned_values
from support.variations import VARIATIONS, micro_config


def write_micro_model(folder: Path, seed: int = 0, dtype: str = "float32", **values: Any) -> Path:
    """A dense model folder with random weights and a tokenizer; the same seed gives the same weights.

    Its test is skipped where transformers lacks the family, in 4.57.
    """
    config = micro_config(dtype=dtype, **values)
    layout: Layout = "per-layer" if "per_layer_config" in config else "uniform"
    skip_unless_loaded(family_of_model_type(config["model_type"]), layout)
    spec = model_spec(config)
    generator = torch.Generator().manual_seed(seed)
    plain = {}
    for name, shape in spec.tensors().items():
        centre = 1.0 if ("norm" in name and name.endswith("weight")) or name.endswith("layer_scalar") else 0.0
        centre = -3.0 if name.endswith("A_log") else centre  # a state remembers some twenty tokens, as in real models
        scale = 0.5 if "embed" in name else 0.25
        plain[name] = centre + scale * torch.randn(shape, generator=generator)
    stored = StoredForm(spec).to_stored(plain)
    tensors = {name: tensor.to(getattr(torch, dtype)) for name, tensor in stored.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config["architectures"] = [spec.family.architecture]
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, "pad_token_id": 0}), "utf-8")
    write_micro_tokenizer(folder)
    return folder


@contextmanager
def one_thread() -> Iterator[None]:
    """As tests on micro models run: of more threads most would wait, and the last bits of some sums depend on them.

    The product then finds one core, so that ONNX Runtime takes one thread, too.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with mock.patch.object(os, "sched_getaffinity", return_value={0}, create=True):
            yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def share_of_cores() -> Iterator[None]:
    """As tests on the real model run, and what they start: more threads would wait for the tests beside them."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores, threads = os.sched_getaffinity(0), torch.get_num_threads()
    share = max(1, len(cores) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
    os.sched_setaffinity(0, sorted(cores)[:share])
    torch.set_num_threads(share)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
        torch.set_num_threads(threads)


def micro_source(folder: Path, variation: str = "llama-gqa", dtype: str = "float32", **values: Any) -> Source:
    return open_source(str(write_micro_model(folder, dtype=dtype, **{**VARIATIONS[variation], **values})))


def write_source(folder: Path, variation: str, *, pruned: bool = False, **values: Any) -> Path:
    """A micro model of a variation; pruned: each layer has a shape of its own, and biases from compensation."""
    config = pruned_values(variation, **values) if pruned else {**VARIATIONS[variation], **values}
    return write_micro_model(folder, **config)


#: What the language model's tensors start with, in place of `model.`, and its LM head: of transformers 5 and before.
SPELLINGS = {
    "newer": ("model.language_model.", "lm_head.weight", "model."),
    "older": ("language_model.model.", "language_model.lm_head.weight", ""),
}


def write_wrapped_model(folder: Path, text: Path, spelling: str, **values: Any) -> Path:
    """The model of the folder `text` with a vision tower; `values` are for config.json."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    inner = micro_config(**json.loads((text / "config.json").read_text("utf-8")))
    vision = {
        "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
        "patch_size": 14,
    }  # fmt: skip
    config = Gemma3Config(text_config=dict(inner), vision_config=vision, mm_tokens_per_image=4, image_token_index=7)
    torch.manual_seed(0)
    model = Gemma3ForConditionalGeneration(config)
    prefix, head, outer = SPELLINGS[spelling]
    tensors = {
        outer + name.removeprefix("model."): tensor
        for name, tensor in model.state_dict().items()
        if "vision_tower" in name or "multi_modal_projector" in name
    }
    for name, tensor in load_file(text / "model.safetensors").items():
        tensors[head if name == "lm_head.weight" else prefix + name.removeprefix("model.")] = tensor
    folder.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    written = {
        "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": inner,
        "vision_config": {"model_type": "siglip_vision_model", **vision}, "mm_tokens_per_image": 4,
        "image_token_index": 7, "boi_token_index": 5, "eoi_token_index": 6,
        **{key: inner[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id", "dtype")}, **values,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(written), "utf-8")
    (folder / "generation_config.json").write_text((text / "generation_config.json").read_text("utf-8"), "utf-8")
    write_micro_tokenizer(folder)
    return folder


def matrix_on_grid(matrix: torch.Tensor, how: BlockQuantization) -> torch.Tensor:
    """The nearest levels, with scales that all float types hold; float32."""
    blocks = padded_blocks(matrix.float(), how)
    scales, points = best_scales(blocks, how)
    return on_grid(blocks, kept_scales(scales, how), points, how).flatten(1)[:, : matrix.shape[1]].contiguous()


def put_on_grid(folder: Path, how: BlockQuantization) -> dict[str, torch.Tensor]:
    """Changes the weights of a model folder, which are float32 then; returns the matrices that are on the grid now."""
    path = folder / "model.safetensors"
    tensors = {name: tensor.float() for name, tensor in load_file(path).items()}
    rounded = {
        name: matrix_on_grid(tensor, how.of(name))
        for name, tensor in tensors.items()
        if tensor.dim() == 2 and how.takes(tensor.shape[1])
        if how.embeddings or not ("embed" in name or "lm_head" in name)
    }
    save_file(tensors | rounded, path, {"format": "pt"})
    return rounded


def rounded_copy(model_folder: Path, folder: Path, how: BlockQuantization) -> RoundingNote:
    """Makes a folder as that of a rounded model, with the nearest levels."""
    shutil.copytree(model_folder, folder)
    put_on_grid(folder, how)
    note = RoundingNote.of(model_folder, folder, how)
    write_other_files(model_folder, folder, note)
    return note


def why_not_loaded(family: Family, layout: Layout) -> str | None:
    """What the installed release of transformers lacks to load models of a family; None: nothing."""
    release, name = transformers.__version__, family.architecture
    if not hasattr(transformers, name):
        return f"transformers {release} has no {name}"
    derives_heads = layout == "per-layer" and family.uniform_keeps_heads == "always"
    in_release_4 = {
        "has a module for each expert": family.experts is not None,
        "keeps other states than keys and values in another way": bool(family.layer_types),
        "wants a multiple of four for CodeGen's number of heads": family.model_type == "codegen",
        f"takes hidden_size / heads of {name} for the size of a head": derives_heads,
    }
    lacks = [what for what, applies in in_release_4.items() if applies and release.startswith("4.")]
    return f"transformers {release} {lacks[0]}" if lacks else None


def skip_unless_loaded(family: Family, layout: Layout = "uniform") -> None:
    if reason := why_not_loaded(family, layout):
        pytest.skip(reason)


def meta_model(config: Mapping[str, Any]) -> PreTrainedModel:
    skip_unless_loaded(family_of_model_type(config["model_type"]))
    with torch.device("meta"):
        return cast(PreTrainedModel, AutoModelForCausalLM.from_config(AutoConfig.for_model(**config)))


def transformers_model(folder: Path, dtype: torch.dtype | str = torch.float32) -> PreTrainedModel:
    """transformers' own model; with soft caps on attention, which other backends ignore, in 4.57 without a word."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    family = family_of_model_type(config["model_type"])
    skip_unless_loaded(family, "per-layer" if "per_layer_config" in config else "uniform")
    capped = family.block.attention_softcap is not None
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager" if capped else None
    ).eval()


@torch.no_grad()
def mean_divergence(dense: Path, variant: Path, texts: Texts) -> float:
    """The mean KL(dense || variant) over all tokens, in transformers' own class."""
    models = transformers_model(dense), transformers_model(variant)
    logits = (torch.cat([model(torch.tensor([ids]), use_cache=False).logits[0] for ids in texts]) for model in models)
    log_p, log_q = (each.log_softmax(-1) for each in logits)
    return float((log_p.exp() * (log_p - log_q)).sum(-1).double().mean())


def projection_paths(model: PreTrainedModel) -> dict[Projection, str]:
    """Where transformers' decoder layers have the output projections that they have."""
    names = family_of_model_type(model.config.model_type).names
    return {output: names[output] for output in (*OUTPUTS, LAYER_INPUTS[-1]) if output in names}


def decoder_layers(model: PreTrainedModel) -> list[nn.Module]:
    """The layers of transformers' model, in which GPT-2's projections become linear layers that compute the same."""
    path = family_of_model_type(model.config.model_type).names["layer"].partition(".{layer}")[0]
    layers = list(cast(nn.ModuleList, model.get_submodule(path)))
    for module in [module for layer in layers for module in layer.modules()]:
        for name, child in module.named_children():
            if isinstance(child, Conv1D):
                linear = nn.Linear(child.nx, child.nf)
                linear.weight, linear.bias = nn.Parameter(child.weight.T.contiguous()), child.bias
                setattr(module, name, linear)
    return layers


def plain_tensors(folder: Path) -> dict[str, torch.Tensor]:
    reader = PlainReader(SafetensorsReader(folder), read_spec(folder))
    return reader.read(reader.shapes())


@torch.no_grad()
def projection_inputs(model: PreTrainedModel, texts: Texts) -> list[dict[str, torch.Tensor]]:
    """All inputs of each layer's output projections, [tokens, channels] float64: one text a time, unpadded."""
    seen: list[dict[str, list[torch.Tensor]]] = [defaultdict(list) for _ in decoder_layers(model)]
    hooks = [
        layer.get_submodule(path).register_forward_pre_hook(
            lambda _, args, inputs=record[name]: inputs.append(args[0].flatten(0, -2).double())
        )
        for layer, record in zip(decoder_layers(model), seen, strict=True)
        for name, path in projection_paths(model).items()
        if path in dict(layer.named_modules())
    ]
    for ids in texts:
        model(torch.tensor([ids]), use_cache=False)
    for hook in hooks:
        hook.remove()
    return [{name: torch.cat(parts) for name, parts in record.items()} for record in seen]


#: Longer than the windows, and padded on the left in the second row.
INPUT_IDS = torch.randint(3, 96, (2, 20), generator=torch.Generator().manual_seed(5))
ATTENTION_MASK = torch.ones_like(INPUT_IDS)


@torch.no_grad()
def masked_logits(model: PreTrainedModel) -> torch.Tensor:
    return model(INPUT_IDS, attention_mask=ATTENTION_MASK).logits[ATTENTION_MASK.bool()]


COMPLETION_STEPS = 20
#: Each third question is given another right answer than the model's.
WRONG_EVERY = 3


@dataclass(frozen=True)
class Completion:
    tokens: tuple[int, ...]
    text: str
    is_ended: bool


def greedy_completions(folder: Path, prompts: Sequence[str], steps: int = COMPLETION_STEPS) -> list[Completion]:
    """The most likely tokens after each prompt, alone, without a cache."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    written = []
    for prompt in prompts:
        asked, tokens = tokenizer.encode(prompt).ids, list[int]()
        while len(tokens) < steps and tokens[-1:] != [2]:
            with torch.no_grad():
                tokens.append(int(model(torch.tensor([asked + tokens])).logits[0, -1].argmax()))
        is_ended = tokens[-1:] == [2]
        tokens = tokens[:-1] if is_ended else tokens
        text = tokenizer.decode(asked + tokens)[len(tokenizer.decode(asked)) :]
        written.append(Completion(tuple(tokens), text, is_ended))
    return written
