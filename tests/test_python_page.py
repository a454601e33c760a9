"""docs/python.md names every argument, and its examples run on a micro model, as do those of the docstrings."""

from __future__ import annotations

import doctest
import inspect
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from seap_export import Variant, convert, evaluate, export, prune, push, validate
from seap_export.api.figures import Figures, FormatFigures
from validation.reports.speedups import MeasuredSpeedup

PAGE = (Path(__file__).parents[1] / "docs" / "python.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
DOCUMENTED: list[Any] = [export, prune, push, convert, validate, evaluate, Variant]


def section(name: str) -> str:
    """What the reference says of a function, without examples."""
    reference = re.sub(r"^```.*?^```", "", PAGE.partition("## Reference")[2], flags=re.MULTILINE | re.DOTALL)
    (parts,) = [part for part in reference.split("\n### ")[1:] if f"`{name}(" in part.splitlines()[0]]
    return parts


def arguments(*functions: Callable[..., Any]) -> set[str]:
    names = (name for function in functions for name in inspect.signature(function).parameters)
    return {name for name in names if name != "self"}


def named(text: str) -> set[str]:
    return {word for code in re.findall(r"`([^`]+)`", text) for word in re.findall(r"[a-z_0-9]+", code)}


@pytest.mark.parametrize("function", [export, prune, push, convert, validate, evaluate])
def test_the_reference_names_every_argument(function: Callable[..., Any]) -> None:
    assert arguments(function) - named(section(function.__name__)) == set()
    documented = re.findall(r"^    (\w+): ", inspect.getdoc(function) or "", re.MULTILINE)
    listed = [name for name in documented if name in inspect.signature(function).parameters]
    assert listed == list(inspect.signature(function).parameters), "the docstring lists them in their order"


def test_the_reference_names_all_figures() -> None:
    figures = {field.name for cls in (Figures, FormatFigures, MeasuredSpeedup) for field in fields(cls)}
    known = arguments(Variant, Variant.generate) | figures | {"name", "hf", "onnx", "figures", "generate"}
    assert known - named(section("Variant")) == set()


@pytest.mark.release
def test_the_examples_run(example_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space: dict[str, Any] = {}
    for block in BLOCKS:
        exec(compile(block, "docs/python.md", "exec"), space)
    assert len(BLOCKS) == 6
    assert {variant.name for variant in space["result"].variants.values()} == {"maths-0.2"}
    assert capsys.readouterr().out.count("\n") >= 4
    for written in ("pruned/maths-0.2/onnx", "both/general-0.5/onnx", "report.html", "shrunk", "maths-int4"):
        assert (example_folder / written).exists(), written


@pytest.mark.release
def test_the_examples_of_the_docstrings_run(example_folder: Path) -> None:
    for documented in DOCUMENTED:
        examples = doctest.DocTestParser().get_examples(documented.__doc__ or "")
        assert 2 <= len(examples) <= 10
        space: dict[str, Any] = {}
        for example in examples:
            exec(compile(example.source, documented.__name__, "exec"), space)
    assert (example_folder / "pruned" / "maths-0.5" / "onnx").is_dir()
    assert (example_folder / "maths-int4" / "model.onnx").is_file()
