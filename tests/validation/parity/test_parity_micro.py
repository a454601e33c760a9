"""The gate on real graphs of micro models: pruned models of every family pass, broken graphs do not."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
from support.chosen import VARIED
from support.editing import edit_tensor, edit_weights
from support.execution import ONE_THREAD
from support.models import skip_unless_loaded, write_micro_model
from support.product import BlockQuantization, OnnxForm, choose_precision, convert_folder
from support.variations import VARIATIONS

from seap_export.errors import ArtifactError
from seap_export.model.families import family_of_model_type
from validation.parity.origin import Origin
from validation.parity.profiles import Limits
from validation.parity.run import run_parity

PROMPTS = ("the cat sat on the mat and the dog sat on the cat", "a dog", "the mat and a cat sat on a dog")
_UP_PROJ, _EXTRA = (f"model.layers.{layer}.mlp.up_proj.weight" for layer in (1, 3))


@pytest.fixture(scope="module")
def exported(micro_hf: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A Llama model folder, and the folder of its ONNX file."""
    folder = tmp_path_factory.mktemp("onnx")
    convert_folder(micro_hf("Llama"), folder)
    return micro_hf("Llama"), folder


@pytest.fixture
def copied(exported: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """The same, with a copy of the ONNX file to damage."""
    hf, source = exported
    return hf, Path(shutil.copytree(source, tmp_path / "onnx"))


def test_a_rounded_model_is_near_the_model_that_was_rounded(exported: tuple[Path, Path], tmp_path: Path) -> None:
    hf, graph = exported
    other = Path(shutil.copytree(hf, tmp_path / "other"))
    edit_weights(other, lambda tensors: tensors["lm_head.weight"].neg_())
    good, bad = (
        run_parity(hf, graph, PROMPTS, origin=Origin(folder, BlockQuantization(8)), execution=ONE_THREAD)
        for folder in (hf, other)
    )
    assert good.passed
    assert good.to_json()["rounding"] == {"kl_nats": 0.0, "limit_nats": 0.05}
    assert (bad.passed, bad.hint) == (False, "no limit would pass")
    assert bad.rounding is not None
    assert bad.rounding.kl > bad.rounding.limit > 0.0
    assert "KL from the model that was rounded" in bad.failure()


@pytest.mark.parametrize("case", [*VARIED, "Qwen2", "Mistral standard", "gemma4-all standard"])
def test_a_model_passes(micro_hf: Callable[[str], Path], tmp_path: Path, case: str) -> None:
    """Two are pruned; the last has a layer that reads the cache of another.

    The long prompt and its steps pass the tokens at which the micro phi3's longrope switches.
    """
    name, _, dialect = case.partition(" ")
    if is_dense := name in VARIATIONS:
        skip_unless_loaded(family_of_model_type(VARIATIONS[name]["model_type"]))
    hf = write_micro_model(tmp_path / "hf", **VARIATIONS[name]) if is_dense else micro_hf(name)
    (tmp_path / "onnx").mkdir()
    convert_folder(hf, tmp_path / "onnx", OnnxForm(dialect=cast(Any, dialect or "fused")))
    report = run_parity(hf, tmp_path / "onnx", PROMPTS, execution=ONE_THREAD)
    assert report.passed, report.reasons
    assert report.max_abs is not None
    assert report.max_abs < (1e-3 if is_dense else 1e-4)
    assert report.noise_kl is None


@pytest.mark.parametrize(
    ("name", "logits", "family"),
    [("int8", "all", "Llama"), ("int4", "last", "Qwen3"), ("w8a8", "last", "Mistral"), ("w4a8", "all", "Qwen2")],
)
def test_quantised_weights_are_compared_in_float32_too(
    micro_hf: Callable[[str], Path], tmp_path: Path, family: str, name: Any, logits: Any
) -> None:
    form = OnnxForm(choose_precision(name, block_size=32), logits=logits)
    convert_folder(micro_hf(family), tmp_path, form)
    report = run_parity(micro_hf(family), tmp_path, PROMPTS, execution=ONE_THREAD)
    assert report.passed, report.reasons
    assert report.subject.form == form.to_json()
    assert report.limits.keys() == {"max_abs", "cache_error", "mean_kl"}
    assert (report.limits["max_abs"], report.limits["cache_error"]) == (1e-3, 1e-3)
    # torch, rounding activations alike, is as far off
    assert 1e-2 <= report.limits["mean_kl"] <= max(1e-2, 12 * (report.noise_kl or 0.0))
    exact = [stage for stage in report.stages if stage.case.endswith(", in float32")]
    assert {stage.prompts.name for stage in exact} == {"batch of 3", "random tokens", "long prompt"}
    assert {stage.figures.tokens // stage.rows for stage in exact if stage.stage == "decode"} == {2}
    rounded = {stage.case for stage in report.stages if stage not in exact}
    assert rounded == {*(f"prompt {index}" for index in range(len(PROMPTS))), "batch of 3", "one token", "generate"}
    assert all(stage.figures.max_abs < 1e-4 for stage in exact if stage.figures.max_abs is not None)
    tokens = {stage.figures.tokens for stage in report.stages if (stage.case, stage.stage) == ("prompt 0", "prefill")}
    assert tokens == {1} if logits == "last" else tokens.isdisjoint({1})
    assert not run_parity(
        micro_hf(family), tmp_path, PROMPTS, execution=ONE_THREAD, limits=Limits(((name, "mean_kl", 1e-9),))
    ).passed


@pytest.mark.parametrize("part", ["packed", "scales", "zero_points"])
def test_one_wrong_row_of_a_quantised_weight_fails(micro_hf: Callable[[str], Path], tmp_path: Path, part: str) -> None:
    hf = micro_hf("Llama")
    convert_folder(hf, tmp_path, OnnxForm(choose_precision("int4", symmetric=part != "zero_points")))
    model, name = onnx.load(tmp_path / "model.onnx"), f"{_UP_PROJ}.{part}"
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[3] = values[3] * np.float32(1.05) if part == "scales" else values[3] ^ 1
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, name))
    (tmp_path / "model.onnx.data").unlink()
    onnx.save(model, tmp_path / "model.onnx")
    report = run_parity(hf, tmp_path, PROMPTS, execution=ONE_THREAD)
    assert not report.passed
    assert "in float32" in report.reasons[0]
    assert re.search(r"max_abs = \S+, .* under \[int4\] in a file of limits would pass$", report.failure())


def test_the_report_is_the_same_again_and_holds_no_paths(exported: tuple[Path, Path]) -> None:
    """A single short prompt is enough."""
    hf, folder = exported
    first, second = (run_parity(hf, folder, ["cat"], execution=ONE_THREAD, decode_steps=1) for _ in range(2))
    assert first.passed, first.reasons
    assert [stage.rows for stage in first.stages if stage.case == "batch of 3"] == [3, 3]
    assert first.to_json() == second.to_json()
    assert str(hf.parent) not in json.dumps(first.to_json())


def test_one_weight_of_the_other_sign_fails(copied: tuple[Path, Path]) -> None:
    hf, folder = copied

    def change(weights: np.ndarray) -> None:
        largest = np.unravel_index(np.abs(weights).argmax(), weights.shape)
        weights[largest] *= -1

    edit_tensor(folder / "model.onnx", f"{_UP_PROJ}.transposed", change)
    report = run_parity(hf, folder, PROMPTS, execution=ONE_THREAD)
    assert not report.passed
    assert report.smallest_passing_limits is not None
    limits = Limits(tuple(("fp32", figure, value) for figure, value in report.smallest_passing_limits.items()))
    assert run_parity(hf, folder, PROMPTS, execution=ONE_THREAD, limits=limits).passed


def test_two_layers_that_read_each_others_cache_fail_in_decode_only(copied: tuple[Path, Path]) -> None:
    hf, folder = copied
    first, other = (f"past_key_values.{layer}.value" for layer in (0, 2))
    proto = onnx.load(folder / "model.onnx", load_external_data=False)
    for node in proto.graph.node:
        node.input[:] = [{first: other, other: first}.get(name, name) for name in node.input]
    onnx.save(proto, folder / "model.onnx")
    report = run_parity(hf, folder, PROMPTS, execution=ONE_THREAD)
    failed = {(result.case, result.stage) for result in report.stages if result.reasons}
    # The prompt that is run in several calls meets the cache before it is decoded.
    assert {stage for case, stage in failed if case != "long prompt"} == {"decode"}
    assert ("long prompt", "prefill") in failed


def _other_up_proj(weights: dict[str, Any], name: str = _UP_PROJ, rows: int | None = None) -> None:
    weights[name] = weights[_UP_PROJ][:rows].clone()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda weights: weights.pop(_UP_PROJ), f"1 missing keys in its weights, such as {_UP_PROJ}"),
        (partial(_other_up_proj, rows=-1), f"1 mismatched keys in its weights, such as {_UP_PROJ}"),
        (partial(_other_up_proj, name=_EXTRA), f"1 unexpected keys in its weights, such as {_EXTRA}"),
        (None, "its tokenizer cannot be loaded"),
    ],
)
def test_a_damaged_model_is_refused(
    exported: tuple[Path, Path],
    tmp_path: Path,
    damage: Callable[[dict[str, Any]], object] | None,
    message: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    hf, onnx_folder = exported
    damaged = Path(shutil.copytree(hf, tmp_path / "hf"))
    if damage is None:
        (damaged / "tokenizer.json").write_text('{"model": 1}', "utf-8")
    else:
        edit_weights(damaged, damage)
    with pytest.raises(ArtifactError, match=re.escape(message)):
        run_parity(damaged, onnx_folder, PROMPTS)
    assert capfd.readouterr() == ("", "")
