"""The gate on real graphs of micro models: pruned models of every family pass, broken graphs do not."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support.chosen import VARIED
from support.editing import edit_weights
from support.execution import ONE_THREAD
from support.models import skip_unless_loaded, write_micro_model
from support.product import BlockQuantization, OnnxForm, choose_precision, convert_folder
from support.variations import VARIATIONS

from seap_export.common.providers import DialectName
from seap_export.errors import ArtifactError
from seap_export.model.families import family_of_model_type
from validation.parity.origin import Origin
from validation.parity.profiles import Limits
from validation.parity.run import run_parity

PROMPTS = ("the cat sat on the mat and the dog sat on the cat", "a dog", "the mat and a cat sat on a dog")
_UP_PROJ = "model.layers.1.mlp.up_proj.weight"
Export = Callable[[str], tuple[Path, Path]]


@pytest.fixture(scope="module")
def exported(micro_hf: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Export:
    """`exported("Llama")`: the model folder and the folder of its ONNX file."""
    made: dict[str, Path] = {}

    def export(family: str) -> tuple[Path, Path]:
        if family not in made:
            made[family] = tmp_path_factory.mktemp(f"onnx_{family}")
            convert_folder(micro_hf(family), made[family])
        return micro_hf(family), made[family]

    return export


@pytest.fixture
def copied(exported: Export, tmp_path: Path) -> tuple[Path, Path]:
    """A Llama model folder, and a copy of its ONNX file to damage."""
    hf, source = exported("Llama")
    return hf, Path(shutil.copytree(source, tmp_path / "onnx"))


def test_a_rounded_model_is_near_the_model_that_was_rounded(exported: Export, tmp_path: Path) -> None:
    hf, graph = exported("Llama")
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


@pytest.mark.parametrize("name", VARIED)
def test_a_dense_model_passes(tmp_path: Path, name: str) -> None:
    """The long prompt and its steps pass the tokens at which the micro phi3's longrope switches."""
    skip_unless_loaded(family_of_model_type(VARIATIONS[name]["model_type"]))
    hf = write_micro_model(tmp_path / "hf", **VARIATIONS[name])
    (tmp_path / "onnx").mkdir()
    convert_folder(hf, tmp_path / "onnx")
    report = run_parity(hf, tmp_path / "onnx", PROMPTS, execution=ONE_THREAD)
    assert report.passed, report.reasons
    assert report.max_abs is not None
    assert report.max_abs < 1e-3
    assert report.noise_kl is None


@pytest.mark.parametrize(
    ("family", "dialect"),
    [("Qwen2", "fused"), ("Mistral", "standard"), ("Qwen3", "standard"), ("gemma4-all", "standard")],
)
def test_a_pruned_model_passes(
    micro_hf: Callable[[str], Path], tmp_path: Path, family: str, dialect: DialectName
) -> None:
    """The last, which is not pruned, has a layer that reads the cache of another."""
    hf = write_micro_model(tmp_path / "hf", **VARIATIONS[family]) if family in VARIATIONS else micro_hf(family)
    (tmp_path / "onnx").mkdir()
    convert_folder(hf, tmp_path / "onnx", OnnxForm(dialect=dialect))
    report = run_parity(hf, tmp_path / "onnx", PROMPTS, execution=ONE_THREAD)
    assert report.passed, report.reasons
    assert report.max_abs is not None
    assert report.max_abs < 1e-4


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
    model = onnx.load(tmp_path / "model.onnx")
    name = f"{_UP_PROJ}.{part}"
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[3] = values[3] * np.float32(1.05) if part == "scales" else values[3] ^ 1
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, name))
    for file in tmp_path.glob("model.onnx*"):
        file.unlink()
    onnx.save(model, tmp_path / "model.onnx")
    report = run_parity(hf, tmp_path, PROMPTS, execution=ONE_THREAD)
    assert not report.passed
    assert "in float32" in report.reasons[0]
    assert re.search(r"max_abs = \S+, .* under \[int4\] in a file of limits would pass$", report.failure())


def test_the_report_is_the_same_again_and_holds_no_paths(exported: Export) -> None:
    hf, onnx_folder = exported("Llama")
    first, second = (
        json.dumps(run_parity(hf, onnx_folder, PROMPTS, execution=ONE_THREAD).to_json()) for _ in range(2)
    )
    assert first == second
    assert str(hf.parent) not in first


def test_a_single_short_prompt_is_enough(exported: Export) -> None:
    report = run_parity(*exported("Llama"), ["cat"], execution=ONE_THREAD, decode_steps=1)
    assert report.passed, report.reasons
    assert [stage.rows for stage in report.stages if stage.case == "batch of 3"] == [3, 3]


def _largest_weight(folder: Path) -> tuple[int, float]:
    """Offset in model.onnx.data, and value, of the largest weight of the biggest tensor kept there."""
    proto = onnx.load(folder / "model.onnx", load_external_data=False)
    locations = [{entry.key: entry.value for entry in tensor.external_data} for tensor in proto.graph.initializer]
    biggest = max((location for location in locations if location), key=lambda location: int(location["length"]))
    offset, length = int(biggest.get("offset", 0)), int(biggest["length"])
    values = np.frombuffer((folder / "model.onnx.data").read_bytes()[offset : offset + length], np.float32)
    index = int(np.abs(values).argmax())
    return offset + 4 * index, float(values[index])


def test_one_weight_of_the_other_sign_fails(copied: tuple[Path, Path]) -> None:
    hf, folder = copied
    offset, value = _largest_weight(folder)
    with (folder / "model.onnx.data").open("r+b") as file:
        file.seek(offset)
        file.write(np.float32(-value).tobytes())
    report = run_parity(hf, folder, PROMPTS, execution=ONE_THREAD)
    assert not report.passed
    assert report.smallest_passing_limits is not None
    limits = Limits(tuple(("fp32", figure, value) for figure, value in report.smallest_passing_limits.items()))
    assert run_parity(hf, folder, PROMPTS, execution=ONE_THREAD, limits=limits).passed


def test_two_layers_that_read_each_others_cache_fail_in_decode_only(copied: tuple[Path, Path]) -> None:
    hf, folder = copied
    swapped = {
        "past_key_values.0.value": "past_key_values.2.value",
        "past_key_values.2.value": "past_key_values.0.value",
    }
    proto = onnx.load(folder / "model.onnx", load_external_data=False)
    for node in proto.graph.node:
        node.input[:] = [swapped.get(name, name) for name in node.input]
    onnx.save(proto, folder / "model.onnx")
    report = run_parity(hf, folder, PROMPTS, execution=ONE_THREAD)
    failed = {(result.case, result.stage) for result in report.stages if result.reasons}
    # The prompt that is run in several calls meets the cache before it is decoded.
    assert {stage for case, stage in failed if case != "long prompt"} == {"decode"}
    assert ("long prompt", "prefill") in failed


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda weights: weights.pop(_UP_PROJ), f"1 missing keys in its weights, such as {_UP_PROJ}"),
        (
            lambda weights: weights.update({_UP_PROJ: weights[_UP_PROJ][:-1].clone()}),
            f"1 mismatched keys in its weights, such as {_UP_PROJ}",
        ),
        (
            lambda weights: weights.update({"model.layers.3.mlp.up_proj.weight": weights[_UP_PROJ].clone()}),
            "1 unexpected keys in its weights, such as model.layers.3.mlp.up_proj.weight",
        ),
    ],
)
def test_weights_that_do_not_fill_the_model_are_refused(
    exported: Export,
    tmp_path: Path,
    damage: Callable[[dict[str, Any]], object],
    message: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    hf, onnx_folder = exported("Llama")
    damaged = Path(shutil.copytree(hf, tmp_path / "hf"))
    edit_weights(damaged, damage)
    with pytest.raises(ArtifactError, match=re.escape(message)):
        run_parity(damaged, onnx_folder, PROMPTS)
    assert capfd.readouterr() == ("", "")


def test_a_damaged_tokenizer_is_refused(exported: Export, tmp_path: Path) -> None:
    hf, onnx_folder = exported("Llama")
    damaged = Path(shutil.copytree(hf, tmp_path / "hf"))
    (damaged / "tokenizer.json").write_text('{"model": 1}', "utf-8")
    with pytest.raises(ArtifactError, match="its tokenizer cannot be loaded"):
        run_parity(damaged, onnx_folder, PROMPTS)
