"""What an IR holds, byte by byte, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.chosen import VARIED_JOINT
from support.formats import write_ir_model
from support.models import write_source
from support.product import BlockQuantization, read_spec
from support.variations import VARIATIONS

from converters.openvino import OpenvinoFormat
from converters.openvino.ir_file import DATA_FILE, MODEL_FILE, read_ir
from seap_export.common.json_file import read_json
from seap_export.errors import EnvironmentFailure, InputError

pytestmark = pytest.mark.needs("openvino")
PRECISIONS = OpenvinoFormat.precisions
ROOT = Path(__file__).parents[3]
FILES = {
    MODEL_FILE,
    DATA_FILE,
    *(f"openvino_{part}tokenizer.{end}" for part in ("", "de") for end in ("xml", "bin")),
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


@pytest.mark.parametrize("variation", VARIED_JOINT)
def test_every_family(variation: str, tmp_path: Path) -> None:
    precision = PRECISIONS[list(VARIATIONS).index(variation) % len(PRECISIONS)]
    made = write_ir_model(tmp_path, variation, precision, pruned=True)
    assert {file.name for file in made.folder.iterdir()} == FILES
    assert made.layers == (0, 1, 2)
    assert OpenvinoFormat.read(made.folder) == made.format
    assert list(made.format.differences(made.source, made.folder)) == []
    assert list(made.format.damages(made.source, made.folder)) == []
    size = (made.folder / DATA_FILE).stat().st_size
    assert made.format.size(made.spec) == pytest.approx(size, rel=0.03)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_floats_are_read_back_as_they_are(precision: str, tmp_path: Path) -> None:
    made = write_ir_model(tmp_path, "gemma3-all", precision, pruned=True)
    file = load_file(made.source / "model.safetensors")
    read = made.format.weights(made.folder, made.spec).read(file)
    for name, tensor in file.items():
        narrow = tensor.half().float() if precision == "fp16" and tensor.ndim == 2 else tensor
        torch.testing.assert_close(read[name], narrow, rtol=0, atol=2e-7 if "norm" in name else 0)


@pytest.mark.parametrize(("precision", "bits"), [("int8", 8), ("int4", 4)])
def test_integers_are_those_of_onnx(precision: str, bits: int, tmp_path: Path) -> None:
    from converters.onnx.weights.quantize import quantize

    made = write_ir_model(tmp_path, "llama-gqa", precision)
    weight = load_file(made.source / "model.safetensors")["model.layers.0.mlp.down_proj.weight"]
    onnx, ir = quantize(weight, BlockQuantization(bits)), read_ir(made.folder)
    stored = ir.read("model.layers.0.mlp.down_proj.weight")
    sign = 0x80 if bits == 8 else 0x88
    assert np.array_equal(stored ^ np.uint8(sign), onnx.packed.numpy().reshape(-1))
    scales = ir.read("model.layers.0.mlp.down_proj.weight.scale").view(np.float16)
    assert np.array_equal(scales, onnx.scales.half().numpy().reshape(-1))


def test_same_bytes_in_another_process(tmp_path: Path) -> None:
    made = write_ir_model(tmp_path, "llama-biases", "int4", pruned=True)
    again = tmp_path / "again"
    again.mkdir()
    command = (
        "import sys; from pathlib import Path; from converters.openvino import OpenvinoFormat; "
        "OpenvinoFormat('int4').write(*map(Path, sys.argv[1:]), lambda layer: None)"
    )
    config = read_json(made.folder / "config.json")
    assert (config["model_type"], config["architectures"]) == ("llama", ["LlamaForCausalLM"])
    assert "auto_map" not in config
    subprocess.run([sys.executable, "-c", command, str(made.source), str(again)], check=True, cwd=ROOT)
    assert {file.name: file.read_bytes() for file in made.folder.iterdir()} == {
        file.name: file.read_bytes() for file in again.iterdir()
    }


@pytest.mark.parametrize(("precision", "variation"), [("int8", "llama-gqa"), ("int4", "llama-tied")])
def test_an_embedding_of_odd_rows_stays_in_floats(precision: str, variation: str, tmp_path: Path) -> None:
    made = write_ir_model(tmp_path, variation, precision, hidden_size=80)
    assert "rows of 80" in str(made.format.remark(made.spec))
    types = {name: constant.element_type for name, constant in read_ir(made.folder).constants.items()}
    assert types["model.embed_tokens.weight"] == types.get("lm_head.weight", "f16") == "f16"
    assert types["model.layers.0.mlp.down_proj.weight"] == {"int8": "i8", "int4": "i4"}[precision]
    assert OpenvinoFormat.read(made.folder) == made.format
    assert [*made.format.differences(made.source, made.folder), *made.format.damages(made.source, made.folder)] == []
    size = (made.folder / DATA_FILE).stat().st_size
    assert made.format.size(made.spec) == pytest.approx(size, rel=0.03)


@pytest.mark.parametrize("what", ["graph", "tokenizer"])
def test_a_full_disk_leaves_nothing(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_source(tmp_path / "hf", "llama-gqa")
    (tmp_path / "out").mkdir()
    _fill_disk(what, monkeypatch)
    with pytest.raises(EnvironmentFailure, match="free disk space"):
        OpenvinoFormat("fp32").write(source, tmp_path / "out", lambda layer: None)
    assert list((tmp_path / "out").iterdir()) == []


def _fill_disk(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import openvino

    serialize = openvino.serialize

    def truncated(model: object, path: Path, *rest: Path) -> None:
        """As OpenVINO writes where there is no space: without an error."""
        serialize(model, path, *rest)
        if path.name == MODEL_FILE and what == "graph":
            path.write_bytes(path.read_bytes()[:1000])
        if path.name != MODEL_FILE and what == "tokenizer":
            raise RuntimeError("cannot write")

    monkeypatch.setattr(openvino, "serialize", truncated)


def test_a_tokenizer_that_is_not_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import openvino_tokenizers

    def convert(*_: object, **__: object) -> None:
        raise NotImplementedError("this step is unknown")

    source = write_source(tmp_path / "hf", "llama-gqa")
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(openvino_tokenizers, "convert_tokenizer", convert)
    assert "this step is unknown" in str(OpenvinoFormat("fp32").refusal(read_spec(source), source))
    with pytest.raises(InputError, match=r"cannot convert this tokenizer.*use another format"):
        OpenvinoFormat("fp32").write(source, tmp_path / "out", lambda layer: None)
    assert list((tmp_path / "out").iterdir()) == []
