"""Arguments of the API: one form for all ways to give a value, and errors as Python raises them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from seap_export import convert, evaluate, export, prune, validate
from seap_export.api.arguments import FilePath, Mixes, NameOrPath, Several, Weights, checked, defaults_of
from seap_export.errors import UsageError


def takes(
    ratio: Several[float] = (),
    number: int | None = None,
    flag: bool | None = None,
    word: Literal["a", "b"] | None = None,
    size: Literal[32, 64] | None = None,
    words: Several[Literal["a", "b"]] = (),
    path: FilePath | None = None,
    paths: Several[FilePath] = (),
    model: NameOrPath = "m",
    weight: Weights = (),
    mix: Mixes = (),
) -> Any:
    """Annotated as the functions of the API are."""


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("ratio", 0.2, (0.2,)),
        ("ratio", 0, (0.0,)),
        ("ratio", [0.2, 0.5], (0.2, 0.5)),
        ("ratio", np.array([0.25, 0.5]), (0.25, 0.5)),
        ("ratio", (), ()),
        ("number", np.int64(3), 3),
        ("number", None, None),
        ("flag", False, False),
        ("word", "b", "b"),
        ("size", 64, 64),
        ("words", "a", ("a",)),
        ("words", ["b", "a"], ("b", "a")),
        ("path", "x/y", Path("x/y")),
        ("path", "~", Path.home()),
        ("paths", Path("x"), (Path("x"),)),
        ("paths", ["x", Path("y")], (Path("x"), Path("y"))),
        ("model", Path("x"), "x"),
        ("model", "owner/name", "owner/name"),
        ("weight", {"a": 2, "b": 0.5}, ("a=2", "b=0.5")),
        ("weight", "a=2", ("a=2",)),
        ("mix", {"x": {"a": 2, "b": 1}, "y": "a:1,b:5"}, ("x=a:2,b:1", "y=a:1,b:5")),
    ],
)
def test_a_value_is_brought_to_one_form(name: str, value: Any, expected: Any) -> None:
    converted = checked(takes, {name: value})[name]
    assert converted == expected
    assert type(converted) is type(expected)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ratio", "20%", "a number or a list of numbers, not '20%'"),
        ("ratio", [0.2, "x"], "a number or a list of numbers"),
        ("ratio", True, "a number"),
        ("ratio", None, "a number"),
        ("ratio", {0.2: 1}, "a number"),
        ("number", 2.0, "a whole number, not 2.0"),
        ("number", True, "a whole number, not True"),
        ("flag", 1, "True or False"),
        ("word", 3, "one of 'a', 'b'"),
        ("size", "32", "one of 32, 64"),
        ("size", True, "one of 32, 64"),
        ("path", 3, "a path"),
        ("path", ["x"], "a path"),
        ("model", None, "a name or a path"),
        ("weight", 2, "a mapping"),
        ("mix", [{"a": 1}], "a mapping"),
    ],
)
def test_another_type_is_a_type_error_that_names_the_argument(name: str, value: Any, words: str) -> None:
    with pytest.raises(TypeError) as caught:
        checked(takes, {name: value})
    assert str(caught.value).startswith(f"takes(): {name} must be {words}")


@pytest.mark.parametrize(("name", "value"), [("word", "c"), ("size", 48), ("words", ["a", "c"])])
def test_a_value_that_there_is_not_is_refused_as_on_the_command_line(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"^{name} .* is unknown; use one of "):
        checked(takes, {name: value})


@pytest.mark.parametrize("function", [export, prune, convert, validate, evaluate])
def test_the_defaults_are_accepted_themselves(function: Any) -> None:
    defaults = defaults_of(function)
    converted = checked(function, defaults)
    assert len(converted) == len(defaults) > 3
    assert converted == {name: converted[name] if name == "progress" else _form(defaults[name], converted[name])
                         for name in defaults}  # fmt: skip


def _form(default: Any, converted: Any) -> Any:
    is_single = isinstance(converted, tuple) and not isinstance(default, Sequence | tuple)
    return (default,) if is_single or (isinstance(default, str) and isinstance(converted, tuple)) else default


def test_the_api_raises_what_python_does(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'ratios'"):
        export("m", {"a": ["x"]}, ratios=0.2, out=tmp_path / "out")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="'out'"):
        export("m", {"a": ["x"]}, ratio=0.2)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"export\(\): ratio must be a number or a list of numbers, not '20%'"):
        export("m", {"a": ["x"]}, ratio="20%", out=tmp_path / "out")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
