"""What every format promises of the folder that it writes, formats by name, and the model folder as a format."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.editing import edit_weights, set_json
from support.exports import tree
from support.formats.written import complaints
from support.models import write_micro_model
from support.plans import write_pruned_micro_model
from support.product import read_spec
from support.tokenizers import write_byte_level
from support.variations import micro_config

from converters.format import Format, named_folders
from converters.formats import FORMATS, format_class, parse_format, read_format
from converters.hf.format import HfFormat, model_damages
from converters.onnx.format import OnnxFormat
from seap_export.errors import ArtifactError, InputError, UsageError
from seap_export.model.families import model_spec

NEEDED = ("openvino", "litert", "executorch")
#: Of each format a precision that rounds, and one that does not, if writing takes another way then.
CASES = [
    pytest.param(name, precision, marks=pytest.mark.needs(name) if name in NEEDED else ())
    for name, precision in (
        *(("onnx", "fp32"), ("onnx", "int4"), ("gguf", "f32"), ("gguf", "q8_0"), ("web", "fp16"), ("web", "q4")),
        *(("mlx", "fp16"), ("mlx", "4bit"), ("openvino", "fp16"), ("openvino", "int4")),
        *(("litert", "fp32"), ("litert", "int8"), ("executorch", "fp32"), ("executorch", "int4")),
    )
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pruned model with biases; not to be changed."""
    folder = write_pruned_micro_model(tmp_path_factory.mktemp("model") / "hf", "llama-biases", vocab_size=130)
    write_byte_level(folder)
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def made(name: str, precision: str) -> Format:
    return format_class(name)(precision)


@pytest.mark.parametrize(("name", "precision"), CASES)
def test_it_is_whole_has_the_same_bytes_again_and_refuses_numbers_that_are_none(
    model: Path, out: Path, tmp_path: Path, name: str, precision: str
) -> None:
    format, layers, again, refused = made(name, precision), list[int](), tmp_path / "again", tmp_path / "refused"
    format.write(model, out, layers.append)
    assert layers == [0, 1, 2]
    assert type(format).read(out) == format
    assert complaints(format, model, out) == []
    again.mkdir()
    format.write(model, again, lambda layer: None)
    assert tree(again) == tree(out)

    value = float("nan") if precision.startswith("f") else float("-inf")
    source = Path(shutil.copytree(model, tmp_path / "hf"))
    edit_weights(source, lambda weights: weights["model.layers.1.mlp.up_proj.weight"][2, 3].fill_(value))
    refused.mkdir()
    with pytest.raises(InputError, match=r"up_proj.* NaN or infinite"):
        format.write(source, refused, lambda layer: None)
    assert tree(refused) == {}


@pytest.mark.parametrize(
    ("name", "precision", "says"),
    [
        ("gguf", "f16", "beyond float16"),
        ("mlx", "fp16", r"up_proj.weight' is too large for float16; use bf16 or fp32"),
        ("mlx", "8bit", r"up_proj.weight' is too large for float16; use bf16 or fp32"),
        pytest.param("openvino", "fp16", "too large for fp16", marks=pytest.mark.needs("openvino")),
    ],
)
def test_numbers_beyond_float16_are_refused(
    model: Path, out: Path, tmp_path: Path, name: str, precision: str, says: str
) -> None:
    source = Path(shutil.copytree(model, tmp_path / "hf"))

    def spoil(weights: dict[str, torch.Tensor]) -> None:
        weights["model.layers.1.mlp.up_proj.weight"][2, 3] = 1e5
        weights["model.layers.1.post_attention_layernorm.weight"][3] = 0  # or else what it computes overflows

    edit_weights(source, spoil)
    with pytest.raises(InputError, match=says):
        made(name, precision).write(source, out, lambda layer: None)
    assert tree(out) == {}


@pytest.mark.parametrize(
    ("text", "named"), [("onnxx", "hf, onnx"), ("", "unknown"), ("onnx:int3", "int8"), ("onnx:", "int4")]
)
def test_what_there_is_not_is_refused(text: str, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        parse_format(text)


@pytest.mark.parametrize(
    ("precision", "is_rounded"), [("int8", False), ("int4", True), ("w8a8", True), ("mixed-5.5", True)]
)
def test_few_bits_are_rounded_with_texts(precision: str, is_rounded: bool) -> None:
    spec = model_spec(micro_config(model_type="llama"))
    assert (OnnxFormat(precision).grid(spec) is not None) is is_rounded


@pytest.mark.parametrize("name", [name for name in FORMATS if format_class(name).ways])
def test_a_number_of_bits_has_one_name(name: str) -> None:
    usual = format_class(name)("mixed-4.5")
    assert format_class(name)("mixed-4.50") == usual
    assert usual.precision == "mixed-4.5"
    assert list(named_folders([HfFormat(), usual.plain(), format_class(name)("mixed-4.50")]))[2] == f"{name}-mixed-4.5"


def test_a_second_precision_gets_its_name() -> None:
    first, second = OnnxFormat("fp32"), OnnxFormat("int4")
    assert named_folders([HfFormat(), first, second]) == {"hf": HfFormat(), "onnx": first, "onnx-int4": second}
    with pytest.raises(ValueError, match="twice"):
        named_folders([first, second, second])


def test_a_folder_says_its_format(tmp_path: Path) -> None:
    model = write_micro_model(tmp_path / "hf", model_type="llama")
    assert read_format(model) == HfFormat("fp32")
    folder = tmp_path / "onnx-int8"
    folder.mkdir()
    OnnxFormat("int8").write(model, folder, lambda layer: None)
    assert read_format(folder) == OnnxFormat("int8")
    with pytest.raises(ArtifactError, match="known format"):
        read_format(tmp_path)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return write_micro_model(tmp_path / "hf", model_type="llama")


def test_it_is_sized_and_read_back(plain: Path) -> None:
    format, spec = HfFormat.read(plain), read_spec(plain)
    assert format.precision == "fp32"
    assert format.size(spec) == pytest.approx((plain / "model.safetensors").stat().st_size, rel=0.05)
    stored = load_file(plain / "model.safetensors")
    read = format.weights(plain, spec).read(stored)
    assert all(torch.equal(read[name], tensor) for name, tensor in stored.items())


def test_a_tensor_too_many_is_damage(plain: Path) -> None:
    assert list(model_damages(plain)) == []
    edit_weights(plain, lambda tensors: tensors.__setitem__("model.layers.0.self_attn.o_proj.bias", torch.ones(4)))
    with pytest.raises(InputError, match=r"o_proj\.bias"):
        list(model_damages(plain))


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("generation_config.json", {"suppress_tokens": [2]}),
        ("generation_config.json", {"max_length": 8}),
        ("config.json", {"bad_words_ids": [[2]]}),
        ("config.json", {"torch_dtype": "float16"}),
    ],
)
def test_what_no_export_writes_into_a_config_is_damage(plain: Path, file: str, said: dict[str, object]) -> None:
    set_json(plain / "generation_config.json", do_sample=True, transformers_version="5.0")
    assert not list(model_damages(plain))
    set_json(plain / file, **said)
    lines = list(model_damages(plain))
    assert [file in line and key in line for line, key in zip(lines, said, strict=True)] == [True]
