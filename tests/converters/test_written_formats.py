"""What every format promises of the folder that it writes; see `converters.format.Format`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from support.editing import edit_weights
from support.exports import tree
from support.plans import write_pruned_micro_model
from support.tokenizers import write_byte_level

from converters.format import Format
from converters.formats import format_class
from seap_export.errors import InputError

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
def test_it_is_whole_and_has_the_same_bytes_again(
    model: Path, out: Path, tmp_path: Path, name: str, precision: str
) -> None:
    format, layers, again = made(name, precision), list[int](), tmp_path / "again"
    format.write(model, out, layers.append)
    assert layers == [0, 1, 2]
    assert type(format).read(out) == format
    assert [*format.differences(model, out), *format.damages(model, out)] == []
    again.mkdir()
    format.write(model, again, lambda layer: None)
    assert tree(again) == tree(out)


@pytest.mark.parametrize(("name", "precision"), CASES)
def test_numbers_that_are_none_are_refused_by_name(
    model: Path, out: Path, tmp_path: Path, name: str, precision: str
) -> None:
    value = float("nan") if precision.startswith("f") else float("-inf")
    source = Path(shutil.copytree(model, tmp_path / "hf"))
    edit_weights(source, lambda weights: weights["model.layers.1.mlp.up_proj.weight"][2, 3].fill_(value))
    with pytest.raises(InputError, match=r"up_proj.* NaN or infinite"):
        made(name, precision).write(source, out, lambda layer: None)
    assert tree(out) == {}


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
