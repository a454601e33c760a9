"""The runner on WebGPU: what runs on the device, where its states lie, and what does not fit."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from support.models import write_micro_model, write_source
from support.processes import Tool
from support.product import OnnxForm, PrecisionName, choose_precision, convert_folder
from support.variations import VARIATIONS

from seap_export.common.providers import PROVIDERS
from seap_export.errors import EnvironmentFailure
from seap_export.runtime import session
from seap_export.runtime.decoding.decoder import OnnxDecoder
from seap_export.runtime.plugins import SOFTWARE
from seap_export.runtime.providers import device_name
from seap_export.runtime.session import nodes_by_provider, open_session

pytestmark = pytest.mark.needs("webgpu")

ROW = PROVIDERS["webgpu"]
#: What computes with int64 and bool: numbers of tokens, their positions, and which are padding.
OF_THE_MASK = {
    "Add", "ArgMax", "Cast", "Concat", "CumSum", "Equal", "Expand", "Less", "LessOrEqual", "Max", "Min", "Range",
    "ReduceMax", "ReduceMin", "ReduceSum", "Reshape", "Shape", "Squeeze", "Sub", "Unsqueeze", "Where",
}  # fmt: skip
#: With a tied head, with states of a fixed size, and with a recurrence.
MODELS = ("smollm3-all", "lfm2-all", "qwen3_5-all")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`written("lfm2-all")`: the ONNX folder of a pruned micro model in float32."""

    @cache
    def write(variation: str) -> Path:
        folder = tmp_path_factory.mktemp("webgpu")
        (folder / "onnx").mkdir()
        hf = write_source(folder / "hf", variation, pruned=True)
        convert_folder(hf, folder / "onnx", OnnxForm(logits="last", provider="webgpu"))
        return folder / "onnx"

    return write


@pytest.mark.parametrize("variation", MODELS)
def test_only_the_mask_is_computed_on_the_cpu_and_a_step_copies_no_state(
    written: Callable[[str], Path], variation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between host and device go integers alone, by ONNX Runtime's own profile: tokens, lengths, places of tokens."""
    nodes = nodes_by_provider(open_session(written(variation) / "model.onnx", "webgpu", 1))
    assert nodes is not None
    assert nodes[PROVIDERS["cpu"].ort_name].keys() <= OF_THE_MASK
    assert nodes[ROW.ort_name]["Gemm"] == 1
    monkeypatch.setenv("SEAP_EXPORT_PROFILE", str(tmp_path))
    decoder = OnnxDecoder(written(variation) / "model.onnx", 128, "webgpu", 1)
    decoder.start([[5, 6, 7]], 8).step([8])
    profile = Path(decoder._model._session.end_profiling())
    events = [event["args"] for event in json.loads(profile.read_text("utf-8")) if "args" in event]
    copied = [event["output_type_shape"] for event in events if event.get("op_name", "").startswith("Memcpy")]
    assert copied
    assert {kind for outputs in copied for output in outputs for kind in output} <= {"int32", "int64", "bool"}


@pytest.mark.parametrize(("precision", "dispatches"), [("fp32", 49), ("int4", 40)])
def test_the_dispatches_of_a_step(
    precision: PrecisionName,
    dispatches: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Of three layers, by ONNX Runtime's own log; docs/research/webgpu.md says what they are."""
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 8, "num_key_value_heads": 4}
    hf = write_micro_model(tmp_path / "hf", **{**VARIATIONS["llama-gqa"], **sizes})
    (tmp_path / "onnx").mkdir()
    convert_folder(hf, tmp_path / "onnx", OnnxForm(choose_precision(precision, "webgpu"), "fused", "last", "webgpu"))
    monkeypatch.setattr(session, "_LOG_NOTHING_BUT_FATAL", 1)  # but all that informs
    decoding = OnnxDecoder(tmp_path / "onnx" / "model.onnx", 128, "webgpu", 1).start([[5, 6, 7]], 8)
    capfd.readouterr()
    decoding.step([8])
    assert "".join(capfd.readouterr()).count("Starting program") == dispatches


@pytest.mark.parametrize(
    ("lack", "words"),
    [
        ({"ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER": "0"}, "ALLOW_SOFTWARE_ADAPTER to 1"),
        ({"VK_ICD_FILENAMES": os.devnull, "VK_DRIVER_FILES": os.devnull}, "no usable adapter"),
    ],
    ids=["no leave", "no adapter"],
)
def test_the_cpu_does_not_take_its_place(
    tool: Tool, written: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, lack: dict[str, str], words: str
) -> None:
    """In a process of its own, since the plug-in looks for adapters once."""
    if device_name("webgpu") != SOFTWARE:
        pytest.skip("this machine has a GPU")
    folder = written("smollm3-all")
    for name, value in lack.items():
        monkeypatch.setenv(name, value)
    ran = tool(folder.parent, "generate", folder, "the cat", "--raw", "--provider", "webgpu")
    assert ran.code == EnvironmentFailure.exit_code, ran.err
    assert words in ran.err.splitlines()[-1]
