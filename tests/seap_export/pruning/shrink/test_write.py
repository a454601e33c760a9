"""A shrunk model computes what its dense model computes with the same channels masked."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from support.calibration import single_mixture
from support.chosen import FEATURED, JOINT, RICHEST, featured, in_turn
from support.editing import edit_weights, set_json
from support.models import ATTENTION_MASK, INPUT_IDS, masked_logits, micro_source, transformers_model, why_not_loaded
from support.plans import NEURONS, layer_plan, micro_plan, plan_of, uniform_plan, whole_layer
from support.product import (
    COMPENSATIONS,
    Calibration,
    Compensation,
    KeptNeurons,
    Plan,
    Source,
    StoredForm,
    TaskMixture,
)
from support.shrunk import Shrunk, shrink_folder
from support.variations import VARIATIONS
from transformers import AutoModelForCausalLM, AutoTokenizer

import seap_export  # noqa: F401 - registers the pruned families
from seap_export.errors import InputError
from seap_export.model.families import Mlp, dense_config, family_of_model_type, model_spec
from seap_export.pruning.plan.settings import Layout
from seap_export.pruning.shrink.write import write_shrunk_model

Shrink = Callable[..., Shrunk]
Calibrate = Callable[..., Calibration]


@pytest.fixture
def shrink(tmp_path: Path, random_calibration: Calibrate) -> Shrink:
    def make(variation: str = "llama-gqa", compensation: Any = "bias", plan: Any = micro_plan, **more: Any) -> Shrunk:
        folder = tmp_path / f"{variation}-{len(list(tmp_path.iterdir()))}"
        micro_source(folder / "dense", variation, **more)
        return shrink_folder(folder / "dense", folder / "shrunk", random_calibration, compensation, plan)

    return make


def whole_plan(source: Source, compensation: Compensation, **values: Any) -> Plan:
    return plan_of(source, [whole_layer(layer) for layer in source.spec.layers], compensation, **values)


def neurons_only(source: Source, compensation: Compensation) -> Plan:
    """All heads stay."""
    layers = [layer_plan(layer, None, None, range(60)) for layer in source.spec.layers]
    return plan_of(source, layers, compensation, layout="uniform")


def one_layer_plan(source: Source, compensation: Compensation, cut: int, step: int = 3) -> Plan:
    """One layer loses what the second one does in `micro_plan`, or its heads alone, and the others nothing."""
    layers = [whole_layer(layer) for layer in source.spec.layers]
    neurons = next(
        (one.intermediate_size for one in source.spec.layers[cut].sublayers if isinstance(one, Mlp)), NEURONS
    )
    layers[cut] = layer_plan(source.spec.layers[cut], 0, 0, range(step // 3, neurons, step))
    return plan_of(source, layers, compensation)


def assert_close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    """Equal to a small part of the largest logit."""
    torch.testing.assert_close(actual, expected, rtol=0.0, atol=tolerance * float(expected.abs().max()))


def cases(layout: Layout, plan: Any) -> list[Any]:
    """A plan for each variation that the installed transformers loads in a layout, with the compensations in turn."""
    families = {name: family_of_model_type(VARIATIONS[name]["model_type"]) for name in JOINT}
    loaded = [name for name, family in families.items() if why_not_loaded(family, layout) is None]
    return [pytest.param(*case.values, plan, marks=case.marks) for case in in_turn(loaded, COMPENSATIONS)]


@pytest.mark.parametrize(
    ("variation", "compensation", "plan"), [*cases("per-layer", micro_plan), *cases("uniform", uniform_plan)]
)
def test_the_shrunk_model_equals_the_masked_dense_model(
    shrink: Shrink, variation: str, compensation: Any, plan: Any
) -> None:
    """In the uniform layout it is a plain one of its family, without code."""
    shrunk = shrink(variation, compensation, plan)
    spec, family = shrunk.plan.shrunk_spec(shrunk.source.spec), shrunk.source.spec.family
    assert model_spec(shrunk.config()) == spec
    assert {name: tuple(tensor.shape) for name, tensor in shrunk.stored().items()} == StoredForm(spec).shapes
    model, is_uniform = transformers_model(shrunk.folder), plan is uniform_plan
    actual = masked_logits(model)
    assert_close(actual, masked_logits(shrunk.masked_dense_model()))
    assert (actual - masked_logits(transformers_model(shrunk.dense))).abs().max() > 0.1  # the plan matters
    assert sum(p.numel() for p in model.parameters()) == spec.num_parameters()
    assert (type(model) is getattr(transformers, family.architecture)) is is_uniform
    assert any(file.suffix == ".py" for file in shrunk.folder.iterdir()) is not is_uniform
    if is_uniform:
        _, info = AutoModelForCausalLM.from_pretrained(shrunk.folder, output_loading_info=True)
        assert not any(info.values())
        assert model_spec(dense_config(shrunk.config())) == shrunk.source.spec


@pytest.mark.parametrize(
    ("variation", "values", "plan", "expected"),
    [
        # what vLLM multiplies logits by, and no cap that the family does not apply
        ("llama-gqa", {}, micro_plan, {"logit_scale": None}),
        ("granite-all", {}, micro_plan, {"logit_scale": 0.5}),
        ("gemma3", {"attn_logit_softcapping": 50.0}, micro_plan, {"attn_logit_softcapping": None}),
        ("qwen3", {}, micro_plan, {"model_type": "seap_qwen3", "architectures": ["SeapQwen3ForCausalLM"]}),
        # code that a source names is not named again
        ("llama-gqa", {"auto_map": {"AutoConfig": "other.Config"}}, uniform_plan, {"auto_map": None}),
    ],
)
def test_config_keeps_dense_values(shrink: Shrink, variation: str, values: Any, plan: Any, expected: Any) -> None:
    shrunk = shrink(variation, "none", plan, **values)
    config, dense = shrunk.config(), shrunk.source.config
    assert {key: config.get(key) for key in expected} == expected
    if plan is micro_plan:
        assert set(config["auto_map"]) == {"AutoConfig", "AutoModel", "AutoModelForCausalLM"}
        same = dense.keys() - {"model_type", "architectures", *expected}
    else:
        sizes = {"num_attention_heads", "num_key_value_heads", "intermediate_size"}
        assert config["pruned_from"] == {key: dense[key] for key in sizes}
        same = (dense.keys() | config.keys()) - {"pruned_from", "head_dim", *sizes, *expected}
    assert {key: config[key] for key in same} == {key: dense[key] for key in same}


@pytest.mark.parametrize(
    ("variation", "layout", "compensation"),
    [
        *(("llama-gqa", "per-layer", compensation) for compensation in COMPENSATIONS),
        ("qwen2", "uniform", "one-shot"),
        ("llama-gqa", "uniform", "sequential"),
    ],
)
def test_what_keeps_all_gives_the_dense_model(shrink: Shrink, variation: str, layout: str, compensation: Any) -> None:
    shrunk = shrink(variation, compensation, partial(whole_plan, layout=layout))
    assert shrunk.config().get("per_layer_config") == ({} if layout == "per-layer" else None)
    assert not any(shrunk.config().get(switch) for switch in ("attention_bias", "mlp_bias"))
    stored, dense = (load_file(folder / "model.safetensors") for folder in (shrunk.folder, shrunk.dense))
    assert stored.keys() == dense.keys()
    assert all(torch.equal(tensor, dense[name]) for name, tensor in stored.items())
    logits = [masked_logits(transformers_model(folder)) for folder in (shrunk.folder, shrunk.dense)]
    assert torch.equal(*logits)
    tokenizers = [AutoTokenizer.from_pretrained(folder) for folder in (shrunk.dense, shrunk.folder)]
    ids, others = (tokenizer("the cat sat on a mat </s>")["input_ids"] for tokenizer in tokenizers)
    assert ids == others
    assert (tokenizers[1].pad_token_id, tokenizers[1].eos_token_id) == (0, 2)
    texts = [(folder / "generation_config.json").read_text("utf-8") for folder in (shrunk.dense, shrunk.folder)]
    assert json.loads(texts[0]) == json.loads(texts[1])


@pytest.mark.parametrize(
    ("variation", "cache"),
    # GPT-Neo's class takes the length of a static cache for that of the text
    [case for case in in_turn(RICHEST, ["dynamic", "static"]) if case.values != ("gpt_neo-all", "static")],
)
def test_a_cache_and_saving_change_nothing(shrink: Shrink, tmp_path: Path, variation: str, cache: str) -> None:
    model = transformers_model(shrink(variation).folder)
    model.save_pretrained(tmp_path / "again")
    second = transformers_model(tmp_path / "again")
    assert type(second) is type(model)
    state = second.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(masked_logits(second), masked_logits(model))
    greedy = {"min_new_tokens": 8, "max_new_tokens": 8, "do_sample": False}
    asked = {**greedy, "attention_mask": ATTENTION_MASK, "return_dict_in_generate": True, "output_logits": True}
    with_cache, without = (
        model.generate(INPUT_IDS, **asked, **options)
        for options in ({"cache_implementation": cache}, {"use_cache": False})
    )
    assert with_cache.past_key_values is not None
    assert torch.equal(with_cache.sequences, without.sequences)
    assert with_cache.sequences.shape == (2, 28)
    assert_close(torch.stack(with_cache.logits), torch.stack(without.logits), 1e-4)


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


def test_the_folder_loads_without_this_package(shrink: Shrink, tmp_path: Path) -> None:
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
def test_a_class_that_does_not_read_the_size_of_a_head_is_refused(shrink: Shrink) -> None:
    folder = shrink("granitemoehybrid").folder
    with pytest.raises(ValueError, match=r"transformers 4.*head_dim.*install a newer release"):
        AutoModelForCausalLM.from_pretrained(folder)


def test_half_precision_is_kept(tmp_path: Path, random_calibration: Calibrate) -> None:
    """Whatever the dense config says."""
    folder = micro_source(tmp_path / "dense", dtype="float16").files[0].parent
    set_json(folder / "config.json", dtype="float32")
    shrunk = shrink_folder(folder, tmp_path / "out", random_calibration, "bias", micro_plan)
    stored, dense = shrunk.stored(), load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert shrunk.config()["dtype"] == "float16"
    assert transformers_model(shrunk.folder, "auto").dtype == torch.float16
    neurons = list(shrunk.plan.layers[1][KeptNeurons].units)
    up, down = (f"model.layers.1.mlp.{name}_proj.weight" for name in ("up", "down"))
    assert torch.equal(stored[up], dense[up][neurons])
    assert torch.equal(stored[down], dense[down][:, neurons])
    edit_weights(folder, lambda tensors: tensors["model.layers.2.mlp.up_proj.weight"][0, 0].fill_(float("nan")))
    with pytest.raises(InputError, match=r"model\.layers\.2\.mlp\.up_proj\.weight"):
        shrink_folder(folder, tmp_path / "refused", random_calibration, "bias", micro_plan)


@torch.no_grad()
def test_a_copy_has_a_backend_of_its_own(shrink: Shrink) -> None:
    """Only the eager backend gives attention weights: one matrix for each head that a layer has left."""
    model = transformers_model(shrink().folder)
    other, before = copy.deepcopy(model), masked_logits(model)
    assert type(other) is type(model)
    assert torch.equal(masked_logits(other), before)
    other.set_attn_implementation("eager")
    backends = [pruned.model.layers[1].self_attn.config._attn_implementation for pruned in (model, other)]
    assert backends == ["sdpa", "eager"]
    attentions = other(INPUT_IDS, attention_mask=ATTENTION_MASK, output_attentions=True).attentions
    assert [matrix.shape[1] for matrix in attentions] == [6, 2, 3]
    assert_close(masked_logits(other), before)


def test_what_was_made_from_another_is_refused(shrink: Shrink, random_calibration: Calibrate, tmp_path: Path) -> None:
    shrunk = shrink()
    other = micro_source(tmp_path / "other", seed=1)
    calibrations = {task: random_calibration(shrunk.source, task) for task in ("boolq", "piqa")}
    (tmp_path / "empty").mkdir()
    of_other = dataclasses.replace(shrunk.plan, source_sha256=other.digest)
    for plan, statistics, message in (
        (of_other, shrunk.statistics, "the plan was not made from .*'dense'"),
        (shrunk.plan, single_mixture(random_calibration(other)), "the calibration was not made from"),
        (shrunk.plan, TaskMixture("mix", {"piqa": 1.0}, calibrations), "the statistics of boolq:1, not of .*:"),
        (shrunk.plan, TaskMixture("mix", {"boolq": 2.0}, calibrations), "the statistics of boolq:1, not of .*:"),
    ):
        with pytest.raises(InputError, match=message):
            write_shrunk_model(shrunk.source, plan, statistics, tmp_path / "empty")
        assert not list((tmp_path / "empty").iterdir())


@pytest.mark.parametrize(
    ("variation", "first", "again"),
    [
        *((variation, micro_plan, partial(one_layer_plan, cut=0)) for variation in featured(JOINT)),
        ("llama-gqa", neurons_only, uniform_plan),
        ("qwen2", neurons_only, partial(one_layer_plan, cut=1, step=1)),
    ],
)
def test_a_shrunk_model_is_shrunk_again(
    shrink: Shrink, random_calibration: Calibrate, variation: str, first: Any, again: Any
) -> None:
    once = shrink(variation, "bias", first)
    folder = once.folder.with_name("twice")
    twice = shrink_folder(once.folder, folder, random_calibration, "sequential", again)
    assert_close(masked_logits(transformers_model(twice.folder)), masked_logits(twice.masked_dense_model()))
    spec = twice.plan.shrunk_spec(twice.source.spec)
    assert {name: tuple(tensor.shape) for name, tensor in twice.stored().items()} == StoredForm(spec).shapes
    assert model_spec(twice.config()) == spec
    assert model_spec(dense_config(twice.config())) == twice.source.spec
    assert ("pruned_from" in twice.config()) is (variation != "qwen2")  # what a plain model becomes tells by layers
