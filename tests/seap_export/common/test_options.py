"""Options: one form for all ways to give a value, errors as Python raises them, and what a function shows."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from seap_export.common.options import declared, option, options, part, takes
from seap_export.common.values import FilePathOrNone, FilePaths, NameOrPath, Several, Weights
from seap_export.errors import UsageError


@options
class Taken:
    ratio: Several[float] = option("", default=())
    number: int | None = option("", default=None, unset="as many as there are")
    flag: bool | None = option("", default=None)
    word: Literal["a", "b"] | None = option("", default=None)
    size: Literal[32, 64] | None = option("", default=None)
    words: Several[Literal["a", "b"]] = option("", default=())
    path: FilePathOrNone = option("", default=None)
    paths: FilePaths = option("", default=())
    model: NameOrPath = option("Which one.", default="m", kw_only=False)
    weight: Weights = option("", default=())
    few: int = option("", default=2, least=2)


@takes(Taken)
def taking(options: Taken) -> Taken:
    """Takes what the API takes.

    Args:
        The fields of `Taken`.

    Returns:
        It.
    """
    return options


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("ratio", 0, (0.0,)),
        ("ratio", [0.2, 0.5], (0.2, 0.5)),
        ("ratio", np.array([0.25, 0.5]), (0.25, 0.5)),
        ("number", np.int64(3), 3),
        ("flag", False, False),
        ("word", "b", "b"),
        ("size", 64, 64),
        ("words", ["b", "a"], ("b", "a")),
        ("path", "~/x", Path.home() / "x"),
        ("paths", Path("x"), (Path("x"),)),
        ("paths", ["x", Path("y")], (Path("x"), Path("y"))),
        ("model", Path("x"), "x"),
        ("weight", {"a": 2, "b": 0.5}, ("a=2", "b=0.5")),
        ("weight", "a=2", ("a=2",)),
        ("weight", {"x": {"a": 2, "b": 1}, "y": "a:1,b:5"}, ("x=a:2,b:1", "y=a:1,b:5")),
    ],
)
def test_a_value_is_brought_to_one_form(name: str, value: Any, expected: Any) -> None:
    read = getattr(taking(**{name: value}), name)
    assert read == expected
    assert type(read) is type(expected)


def test_another_type_is_a_type_error_that_names_the_argument() -> None:
    for name, values, words in (
        ("ratio", ("20%", [0.2, "x"], True, None, {0.2: 1}), "a number or a list of numbers, not "),
        ("number", (2.0, True), "a whole number, not "),
        ("flag", (1,), "True or False"),
        ("word", (3,), "one of 'a', 'b'"),
        ("size", ("32", True), "one of 32, 64"),
        ("path", (3, ["x"]), "a path"),
        ("model", (None,), "a name or a path"),
        ("weight", (2, [{"a": 1}]), "a mapping"),
    ):
        for value in values:
            with pytest.raises(TypeError) as caught:
                taking(**{name: value})
            assert str(caught.value).startswith(f"taking(): {name} must be {words}")


def test_a_value_that_there_is_not_is_refused_as_on_the_command_line() -> None:
    for name, value in (("word", "c"), ("size", 48), ("words", ["a", "c"])):
        with pytest.raises(UsageError, match=f"^{name} .* is unknown; use one of "):
            taking(**{name: value})
    assert taking(few=2).few == 2
    with pytest.raises(UsageError, match=r"^--few 1 is out of range; give at least 2$"):
        taking(few=1)


def test_the_signature_and_the_docstring_are_those_of_the_fields() -> None:
    parameters = inspect.signature(taking).parameters
    assert list(parameters) == [each.name for each in declared(Taken)]
    kinds = [parameter.kind for parameter in parameters.values()][:2]
    assert kinds == [inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY]
    assert parameters["few"].default == 2
    doc = inspect.getdoc(taking) or ""
    assert doc.startswith("Takes what the API takes.\n\nArgs:\n    model: Which one.\n    ratio:")

    @options
    class More(Taken):
        more: int = option("", default=1)

    assert part(Taken, More(more=2, few=3)) == Taken(few=3)
    assert type(part(Taken, More())) is Taken
