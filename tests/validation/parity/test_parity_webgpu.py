"""Parity on WebGPU, in software where there is no GPU: every family, every precision, and faults of this provider."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from support.chosen import FEATURED, JOINT
from support.execution import ONE_THREAD
from support.models import skip_unless_loaded, write_source
from support.product import SOFTWARE, OnnxForm, PrecisionName, choose_precision, convert_folder, device_name
from support.variations import VARIATIONS, micro_config

from converters.onnx.graph.dialects.looped import is_looped
from seap_export.common.providers import Dtype
from seap_export.errors import InputError
from seap_export.model.families import Attention, Experts, family_of_model_type, model_spec
from validation.execution import Execution
from validation.parity.profiles import Limits
from validation.parity.report import ParityReport
from validation.parity.run import run_parity

pytestmark = pytest.mark.needs("webgpu")

PROMPTS = ("the cat sat on the mat and the dog sat on the cat", "a dog", "the mat and a cat sat on a dog")
ON_WEBGPU = Execution("webgpu", 1)
#: Few that have what this provider does in a way of its own: a tied head, sinks, and states of a fixed size.
QUICK = ("smollm3-all", "qwen3_5-all")
#: What float16 may lose on random weights: the provider adds products up in it, which is beyond torch's noise.
IN_FLOAT16 = Limits(tuple((name, "mean_kl", 0.2) for name in ("fp16", "int8", "int4")))
FULL, RELEASE = pytest.mark.full, pytest.mark.release
_UP, _DOWN = (f"model.layers.1.mlp.{name}_proj.weight" for name in ("up", "down"))
#: At 128 inputs, kernels that multiply integers are within reach.
WIDE = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 8, "num_key_value_heads": 4}


def exported(
    folder: Path, name: str, precision: PrecisionName, activations: Dtype | None = None, **values: Any
) -> tuple[Path, Path]:
    """A micro model, pruned unless it has experts or other sizes, and the folder of its ONNX file for WebGPU."""
    skip_unless_loaded(family_of_model_type(VARIATIONS[name]["model_type"]))
    hf, written = write_source(folder / "hf", name, pruned=name in JOINT and not values, **values), folder / "onnx"
    written.mkdir()
    how = choose_precision(precision, "webgpu", activations=activations if precision.startswith("int") else None)
    convert_folder(hf, written, OnnxForm(how, logits="last", provider="webgpu"))
    return hf, written


def compared(
    hf: Path,
    folder: Path,
    execution: Execution = ON_WEBGPU,
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> ParityReport:
    """The gate, with fewer steps; the long prompt is beyond the 31 tokens from which kernels differ."""
    return run_parity(hf, folder, PROMPTS, execution=execution, decode_steps=4, long_tokens=64, limits=limits)


CASES: list[tuple[str, PrecisionName, Dtype | None, dict[str, Any], Any]] = [
    *((name, "fp32", None, {}, () if name in QUICK else FULL) for name in FEATURED),
    ("smollm3-all", "int4", "fp16", {}, ()),
    ("llama-gqa", "int4", None, WIDE, ()),
    ("llama-gqa", "int8", None, WIDE, FULL),
    ("qwen3_5-all", "int8", None, {}, RELEASE),
    ("lfm2-all", "fp16", "fp16", {}, RELEASE),
    ("nemotron_h-all", "int4", None, {}, FULL),
    ("nemotron_h-all", "fp16", "fp16", {}, FULL),
]


@pytest.mark.parametrize(
    ("name", "precision", "activations", "values"), [pytest.param(*case, marks=marks) for *case, marks in CASES]
)
def test_families_and_precisions(
    name: str, precision: PrecisionName, activations: Dtype | None, values: dict[str, Any], tmp_path: Path
) -> None:
    """Soft caps and loops over experts are refused. No activations are rounded; in float16 they really are of it."""
    spec = model_spec(micro_config(**VARIATIONS[name]))
    is_capped = any(one.softcap is not None for one in spec.all(Attention))
    if is_capped or any(map(is_looped, spec.all(Experts))):
        with pytest.raises(InputError, match="soft cap" if is_capped else "experts"):
            exported(tmp_path, name, precision)
        return
    folders = exported(tmp_path, name, precision, activations, **values)
    report = compared(*folders, limits=Limits() if activations is None else IN_FLOAT16)
    assert report.passed, report.reasons
    assert report.max_abs is not None
    assert (report.max_abs < 1e-3) is (activations is None)
    assert report.conditions.provider == "WebGpuExecutionProvider"
    assert report.conditions.gpu


def edited(folder: Path, edit: Callable[[onnx.ModelProto], None]) -> Path:
    """A copy of the graph's folder with a fault."""
    out = Path(shutil.copytree(folder, folder.with_name("edited")))
    model = onnx.load(out / "model.onnx")
    edit(model)
    for file in out.glob("model.onnx*"):
        file.unlink()
    onnx.save(model, out / "model.onnx")
    return out


def without_sinks(model: onnx.ModelProto, kept: tuple[str, ...] = ("smooth_softmax",)) -> None:
    """One more score of 0 in each softmax."""
    for node in (node for node in model.graph.node if node.op_type == "GroupQueryAttention"):
        del node.input[7 + 2 :]
        attributes = [one for one in node.attribute if one.name != "smooth_softmax" or one.name in kept]
        del node.attribute[:]
        node.attribute.extend(attributes)


def without_the_way_around(model: onnx.ModelProto) -> None:
    """The kernel for long prompts, which other providers compute rightly."""
    without_sinks(model, ())


def with_sinks(model: onnx.ModelProto) -> None:
    """Sinks that take part."""
    for tensor in model.graph.initializer:
        if tensor.name.startswith("no_sinks"):
            tensor.CopyFrom(numpy_helper.from_array(np.zeros(tensor.dims, np.float32), tensor.name))


@pytest.mark.planted("webgpu")
@pytest.mark.parametrize(
    "fault", [without_the_way_around, *(pytest.param(each, marks=RELEASE) for each in (without_sinks, with_sinks))]
)
def test_faults_of_this_provider(fault: Callable[[onnx.ModelProto], None], tmp_path: Path) -> None:
    if fault is without_the_way_around and device_name("webgpu") != SOFTWARE:
        pytest.skip("some GPUs compute it rightly")
    hf, folder = exported(tmp_path, "smollm3-all", "fp32")
    assert not compared(hf, edited(folder, fault)).passed


def beyond_float16(model: onnx.ModelProto) -> None:
    """Products of gate and up that are too large, and an output projection that makes up for it."""
    for tensor in model.graph.initializer:
        factor = {_UP: 2.0**12, _DOWN: 2.0**-12}.get(tensor.name.removesuffix(".transposed"))
        if factor is not None:
            values = (numpy_helper.to_array(tensor).astype(np.float32) * factor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


@pytest.mark.release
@pytest.mark.planted("webgpu")
def test_an_overflow_in_float16(tmp_path: Path) -> None:
    """The CPU's kernels, which widen float16 to float32, do not see it."""
    hf, folder = exported(tmp_path, "llama-gqa", "fp16")
    damaged = edited(folder, beyond_float16)
    report = compared(hf, damaged, limits=IN_FLOAT16)
    assert not report.passed
    assert "NaN" in report.failure() or "inf" in report.failure()
    assert compared(hf, damaged, ONE_THREAD).passed
