"""Formats by name, and the folders they get."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.models import write_micro_model
from support.variations import micro_config

from converters.format import named_folders
from converters.formats import FORMATS, format_class, parse_format, read_format
from converters.hf.format import HfFormat
from converters.onnx.format import OnnxFormat
from seap_export.errors import ArtifactError, UsageError
from seap_export.model.families import model_spec


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
