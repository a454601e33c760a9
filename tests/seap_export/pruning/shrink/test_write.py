"""A shrunk model computes what its dense model computes with the same channels masked."""

from __future__ import annotations

import copy
import dataclasses
import gc
import json
import os
import pickle
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from support.calibration import single_mixture
from support.chosen import FEATURED, JOINT, RICHEST, featured, in_turn
from support.editing import edit_weights, set_json
from support.models import (
    ATTENTION_MASK,
    INPUT_IDS,
    masked_logits,
    micro_source,
    transformers_model,
    why_not_loaded,
    write_micro_model,
)
from support.plans import NEURONS, layer_plan, micro_plan, plan_of, whole_layer
from support.product import (
    COMPENSATIONS,
    Calibration,
    Compensation,
    KeptNeurons,
    Plan,
    Source,
    StoredForm,
    TaskMixture,
    open_source,
)
from support.shrunk import Shrunk, shrink_folder, shrink_micro
from support.variations import VARIATIONS
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import seap_export  # noqa: F401 - registers the pruned families
from seap_export.errors import InputError
from seap_export.model.families import dense_config, model_spec
from seap_export.pruning.shrink.write import write_shrunk_model


@pytest.fixture
def shrink(tmp_path: Path, random_calibration: Callable[[Source], Calibration]) -> Callable[..., Shrunk]:
    def make(variation: str = "llama-gqa", compensation: Compensation = "bias", **others: Any) -> Shrunk:
        return shrink_micro(tmp_path, random_calibration, variation, compensation, **others)

    return make


def whole_plan(source: Source, compensation: Compensation) -> Plan:
    return plan_of(source, [whole_layer(layer) for layer in source.spec.layers], compensation)


def assert_close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    """Equal to a small part of the largest logit."""
    torch.testing.assert_close(actual, expected, rtol=0.0, atol=tolerance * float(expected.abs().max()))


@pytest.mark.parametrize(("variation", "compensation"), in_turn(JOINT, COMPENSATIONS))
def test_the_shrunk_model_equals_the_masked_dense_model(
    shrink: Callable[..., Shrunk], variation: str, compensation: Compensation
) -> None:
    shrunk = shrink(variation, compensation)
    model = transformers_model(shrunk.folder)
    actual = masked_logits(model)
    assert_close(actual, masked_logits(shrunk.masked_dense_model()))
    assert (actual - masked_logits(transformers_model(shrunk.dense))).abs().max() > 0.1  # the plan matters
    shapes = StoredForm(shrunk.plan.shrunk_spec(shrunk.source.spec)).shapes
    assert {name: tuple(t.shape) for name, t in load_file(shrunk.folder / "model.safetensors").items()} == shapes
    spec = shrunk.plan.shrunk_spec(shrunk.source.spec)
    assert model_spec(shrunk.config()) == spec
    assert sum(p.numel() for p in model.parameters()) == spec.num_parameters()


@pytest.mark.parametrize(
    ("variation", "scale"), [("llama-gqa", None), ("granite-all", 0.5), ("hyperclovax-all", 0.125)]
)
def test_config_says_what_vllm_multiplies_logits_by(
    shrink: Callable[..., Shrunk], variation: str, scale: float | None
) -> None:
    assert shrink(variation).config().get("logit_scale") == scale


def test_vllm_is_not_told_of_a_cap_that_the_family_does_not_apply(
    tmp_path: Path, random_calibration: Callable[[Source], Calibration]
) -> None:
    source = micro_source(tmp_path / "dense", "gemma3", attn_logit_softcapping=50.0)
    (tmp_path / "hf").mkdir()
    write_shrunk_model(source, micro_plan(source, "none"), single_mixture(random_calibration(source)), tmp_path / "hf")
    assert json.loads((tmp_path / "hf" / "config.json").read_text("utf-8"))["attn_logit_softcapping"] is None


def test_config_keeps_the_dense_values_and_names_the_classes(shrink: Callable[..., Shrunk]) -> None:
    shrunk = shrink("qwen3")
    config = shrunk.config()
    assert config["model_type"] == "seap_qwen3"
    assert config["architectures"] == ["SeapQwen3ForCausalLM"]
    assert set(config["auto_map"]) == {"AutoConfig", "AutoModel", "AutoModelForCausalLM"}
    same = shrunk.source.config.keys() - {"model_type", "architectures"}
    assert {key: config[key] for key in same} == {key: shrunk.source.config[key] for key in same}


@pytest.mark.parametrize("compensation", COMPENSATIONS)
def test_a_plan_that_keeps_everything_gives_the_dense_model(
    shrink: Callable[..., Shrunk], compensation: Compensation
) -> None:
    shrunk = shrink("llama-gqa", compensation, plan=whole_plan)
    assert shrunk.config()["per_layer_config"] == {}
    stored, dense = (load_file(folder / "model.safetensors") for folder in (shrunk.folder, shrunk.dense))
    assert stored.keys() == dense.keys()
    assert all(torch.equal(tensor, dense[name]) for name, tensor in stored.items())
    assert torch.equal(
        masked_logits(transformers_model(shrunk.folder)), masked_logits(transformers_model(shrunk.dense))
    )


@pytest.mark.parametrize(("variation", "cache"), in_turn(RICHEST, ["dynamic", "static"]))
def test_generation_with_a_cache_equals_generation_without(
    shrink: Callable[..., Shrunk], variation: str, cache: str
) -> None:
    if (variation, cache) == ("gpt_neo-all", "static"):
        pytest.skip("GPT-Neo's class takes the length of a static cache for that of the text")
    model = transformers_model(shrink(variation).folder)
    with_cache, without = (
        model.generate(
            INPUT_IDS,
            attention_mask=ATTENTION_MASK,
            min_new_tokens=8,
            max_new_tokens=8,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
            **options,
        )
        for options in ({"cache_implementation": cache}, {"use_cache": False})
    )
    assert with_cache.past_key_values is not None
    assert torch.equal(with_cache.sequences, without.sequences)
    assert with_cache.sequences.shape == (2, 28)
    assert_close(torch.stack(with_cache.logits), torch.stack(without.logits), 1e-4)


@pytest.mark.parametrize("variation", [*featured(VARIATIONS), "llama-tied"])
def test_saving_and_loading_again_is_exact(shrink: Callable[..., Shrunk], tmp_path: Path, variation: str) -> None:
    shrunk = shrink(variation)
    first = transformers_model(shrunk.folder)
    first.save_pretrained(tmp_path / "again")
    second = transformers_model(tmp_path / "again")
    assert type(second) is type(first)
    state = second.state_dict()
    assert state.keys() == first.state_dict().keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in first.state_dict().items())
    assert torch.equal(masked_logits(second), masked_logits(first))


WITHOUT_THE_PACKAGE = """
import sys
sys.modules["seap_export"] = None
import torch
from transformers import AutoModelForCausalLM
*folders, result = sys.argv[1:]
inputs = torch.load(result)
logits = []
for folder in folders:
    options = {"dtype": torch.float32, "attn_implementation": "eager"}
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, **options).eval()
    assert type(model).__module__.startswith("transformers_modules."), type(model).__module__
    with torch.no_grad():
        logits.append(model(input_ids=inputs[0], attention_mask=inputs[1]).logits)
torch.save(logits, result)
"""


def test_the_folder_loads_without_this_package(shrink: Callable[..., Shrunk], tmp_path: Path) -> None:
    made = [shrink(variation) for variation in FEATURED[::4]]
    folders = [shrunk.folder for shrunk in made if why_not_loaded(shrunk.source.spec.family, "per-layer") is None]
    torch.save((INPUT_IDS, ATTENTION_MASK), tmp_path / "result")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["HF_MODULES_CACHE"] = str(tmp_path / "modules")
    command = [sys.executable, "-I", "-c", WITHOUT_THE_PACKAGE, *map(str, folders), str(tmp_path / "result")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for folder, actual in zip(folders, torch.load(tmp_path / "result"), strict=True):
        assert_close(actual[ATTENTION_MASK.bool()], masked_logits(transformers_model(folder)))


@pytest.mark.skipif(not transformers.__version__.startswith("4."), reason="transformers 5 reads head_dim")
def test_a_class_that_does_not_read_the_size_of_a_head_is_refused(shrink: Callable[..., Shrunk]) -> None:
    folder = shrink("granitemoehybrid").folder
    with pytest.raises(ValueError, match=r"transformers 4.*head_dim.*install a newer release"):
        AutoModelForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize(
    ("dtype", "compensation"), [("bfloat16", "sequential"), ("float16", "one-shot"), ("bfloat16", "bias")]
)
def test_half_precision_weights_keep_their_dtype_and_values(
    shrink: Callable[..., Shrunk], dtype: str, compensation: Compensation
) -> None:
    shrunk = shrink("llama-gqa", compensation, dtype=dtype)
    stored, dense = (load_file(folder / "model.safetensors") for folder in (shrunk.folder, shrunk.dense))
    assert {tensor.dtype for tensor in stored.values()} == {getattr(torch, dtype)}
    assert shrunk.config()["dtype"] == dtype
    neurons = list(shrunk.plan.layers[1][KeptNeurons].neurons)
    name = "model.layers.1.mlp.up_proj.weight"
    assert torch.equal(stored[name], dense[name][neurons])
    name = "model.layers.1.mlp.down_proj.weight"
    fitted = compensation in ("sequential", "one-shot")
    assert torch.equal(stored[name], dense[name][:, neurons]) is not fitted
    assert transformers_model(shrunk.folder, "auto").dtype == getattr(torch, dtype)


def test_the_dtype_in_the_config_is_that_of_the_weights(
    tmp_path: Path, random_calibration: Callable[[Source], Calibration]
) -> None:
    """Whatever the dense config says."""
    dense = write_micro_model(tmp_path / "dense", dtype="bfloat16", model_type="llama")
    set_json(dense / "config.json", dtype="float32")
    source = open_source(str(dense))
    (tmp_path / "out").mkdir()
    write_shrunk_model(
        source, micro_plan(source, "bias"), single_mixture(random_calibration(source)), tmp_path / "out"
    )
    assert transformers_model(tmp_path / "out", "auto").dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("variation", "copied"),
    [("llama-gqa", copy.deepcopy), ("phi3-all", lambda model: pickle.loads(pickle.dumps(model)))],
)
@torch.no_grad()
def test_a_copy_computes_the_same_and_has_a_backend_of_its_own(
    shrink: Callable[..., Shrunk], variation: str, copied: Callable[[PreTrainedModel], PreTrainedModel]
) -> None:
    """Only the eager backend gives attention weights: one matrix for each head that a layer has left."""
    model = transformers_model(shrink(variation).folder)
    other, before = copied(model), masked_logits(model)
    assert type(other) is type(model)
    assert torch.equal(masked_logits(other), before)
    other.set_attn_implementation("eager")
    backends = [pruned.model.layers[1].self_attn.config._attn_implementation for pruned in (model, other)]
    assert backends == ["sdpa", "eager"]
    attentions = other(INPUT_IDS, attention_mask=ATTENTION_MASK, output_attentions=True).attentions
    assert [matrix.shape[1] for matrix in attentions] == [6, 2, 3]
    assert_close(masked_logits(other), before)


@pytest.mark.parametrize("compensation", ["bias", "sequential"])
def test_two_runs_give_the_same_bytes(
    shrink: Callable[..., Shrunk], tmp_path: Path, compensation: Compensation
) -> None:
    shrunk = shrink("qwen2", compensation)
    (tmp_path / "second").mkdir()
    write_shrunk_model(open_source(str(shrunk.dense)), shrunk.plan, shrunk.statistics, tmp_path / "second")
    first, second = (
        {file.name: file.read_bytes() for file in folder.iterdir()} for folder in (shrunk.folder, tmp_path / "second")
    )
    assert first == second
    assert {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json"} <= first.keys()


def test_the_tokenizer_loads_from_the_folder_and_gives_the_same_ids(shrink: Callable[..., Shrunk]) -> None:
    shrunk = shrink()
    dense, pruned = (AutoTokenizer.from_pretrained(folder) for folder in (shrunk.dense, shrunk.folder))
    text = "the cat sat on a mat </s>"
    assert pruned(text)["input_ids"] == dense(text)["input_ids"]
    assert (pruned.pad_token_id, pruned.eos_token_id) == (0, 2)
    stored, dense = (json.loads((f / "generation_config.json").read_text()) for f in (shrunk.folder, shrunk.dense))
    assert stored == dense


@pytest.mark.parametrize("compensation", ["bias", "sequential"])
def test_layers_are_read_and_written_one_at_a_time(
    shrink: Callable[..., Shrunk], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compensation: Compensation
) -> None:
    """A layer is read once, only when the one before it is written, and what was read of that is gone by then."""
    shrunk = shrink(compensation=compensation)
    events: list[tuple[str, int]] = []
    alive: list[weakref.ref[torch.Tensor]] = []
    plain = Source.read_layer

    def noted(self: Source, layer: int) -> dict[str, torch.Tensor]:
        gc.collect()
        assert not any(reference() is not None for reference in alive)
        events.append(("read", layer))
        tensors = plain(self, layer)
        alive[:] = [weakref.ref(tensor) for name, tensor in tensors.items() if name.endswith("up_proj.weight")]
        assert alive
        return tensors

    monkeypatch.setattr(Source, "read_layer", noted)
    (tmp_path / "again").mkdir()
    write_shrunk_model(
        shrunk.source,
        dataclasses.replace(shrunk.plan, layers=(shrunk.plan.layers[1],) * 3),
        shrunk.statistics,
        tmp_path / "again",
        lambda layer: events.append(("written", layer)),
    )
    assert events == [(what, layer) for layer in range(3) for what in ("read", "written")]


def test_what_was_made_from_something_else_is_refused_before_anything_is_written(
    shrink: Callable[..., Shrunk], random_calibration: Callable[..., Calibration], tmp_path: Path
) -> None:
    shrunk = shrink()
    other = open_source(str(write_micro_model(tmp_path / "other", seed=1, model_type="llama")))
    calibrations = {task: random_calibration(shrunk.source, task) for task in ("boolq", "piqa")}
    (tmp_path / "empty").mkdir()
    of_other = dataclasses.replace(shrunk.plan, source_sha256=other.digest)
    for plan, statistics, message in (
        (of_other, shrunk.statistics, "the plan was not made from .*'dense-llama-gqa'"),
        (shrunk.plan, single_mixture(random_calibration(other)), "the calibration was not made from"),
        (shrunk.plan, TaskMixture("mix", {"piqa": 1.0}, calibrations), "the statistics of boolq:1, not of .*:"),
        (shrunk.plan, TaskMixture("mix", {"boolq": 2.0}, calibrations), "the statistics of boolq:1, not of .*:"),
    ):
        with pytest.raises(InputError, match=message):
            write_shrunk_model(shrunk.source, plan, statistics, tmp_path / "empty")
        assert not list((tmp_path / "empty").iterdir())


def test_weights_that_are_not_finite_are_refused_by_tensor(
    tmp_path: Path, random_calibration: Callable[[Source], Calibration]
) -> None:
    dense = write_micro_model(tmp_path / "dense", model_type="llama")
    edit_weights(dense, lambda tensors: tensors["model.layers.2.mlp.up_proj.weight"][0, 0].fill_(float("nan")))
    source = open_source(str(dense))
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match=r"model\.layers\.2\.mlp\.up_proj\.weight"):
        write_shrunk_model(
            source, micro_plan(source, "bias"), single_mixture(random_calibration(source)), tmp_path / "out"
        )


def first_layer_plan(source: Source, compensation: Compensation) -> Plan:
    """The first layer loses what the second one does in `micro_plan`, and the others nothing."""
    first, *others = source.spec.layers
    layers = [layer_plan(first, 0, 0, range(1, NEURONS, 3)), *map(whole_layer, others)]
    return plan_of(source, layers, compensation)


@pytest.mark.parametrize("variation", featured(JOINT))
def test_a_shrunk_model_is_shrunk_again(
    shrink: Callable[..., Shrunk], tmp_path: Path, random_calibration: Callable[[Source], Calibration], variation: str
) -> None:
    once = shrink(variation, "bias")
    twice = shrink_folder(once.folder, tmp_path / "twice", random_calibration, "sequential", first_layer_plan)
    model = transformers_model(twice.folder)
    assert_close(masked_logits(model), masked_logits(twice.masked_dense_model()))
    shapes = StoredForm(twice.plan.shrunk_spec(twice.source.spec)).shapes
    assert {name: tuple(tensor.shape) for name, tensor in twice.stored().items()} == shapes
    assert model_spec(twice.config()) == twice.plan.shrunk_spec(twice.source.spec)
    assert twice.config().keys() == once.config().keys() | {"pruned_from"}
    assert model_spec(dense_config(twice.config())) == twice.source.spec
