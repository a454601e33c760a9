"""Options of the command line and arguments of the API are the same ones, with the same defaults and values."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from seap_export import Variant, convert, evaluate, export, prune, push, validate
from seap_export.cli import main
from seap_export.common.options import Declared, declared
from seap_export.common.values import converted

FUNCTIONS = [export, prune, push, convert, validate, evaluate]
#: What is of the command line alone: where settings are read, how results are printed, a check without torch.
OF_THE_COMMAND = {"config", "set", "as_json", "quiet", "wide", "against_golden"}
OF_PYTHON = {"progress"}


def params_of(name: str) -> dict[str, click.Parameter]:
    return {str(param.name): param for param in main.commands[name].params if param.name not in OF_THE_COMMAND}


def options_of(function: Callable[..., Any]) -> list[Declared]:
    """What a function takes that the command takes, too."""
    wrapped = inspect.unwrap(function)
    cls = wrapped.__globals__[wrapped.__annotations__["options"]]
    return [each for each in declared(cls) if each.name not in OF_PYTHON]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_option_is_an_argument_of_the_same_name(function: Callable[..., Any]) -> None:
    params, arguments = params_of(function.__name__), inspect.signature(function).parameters
    assert set(params) == set(arguments) - OF_PYTHON
    for name, param in params.items():
        option = max(param.opts, key=len).lstrip("-").replace("-", "_")
        assert name == {"task": "tasks"}.get(option, option)
        assert param.required == (arguments[name].default is inspect.Parameter.empty), name


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_defaults_are_the_same(function: Callable[..., Any]) -> None:
    command, taken = main.commands[function.__name__], [each for each in options_of(function) if not each.is_required]
    context = command.make_context(function.__name__, [], resilient_parsing=True)
    assert len(taken) > 2
    for each in taken:
        value = context.params[each.name]
        given = () if value is None and each.default == () else value  # both stand for an option that is not given
        assert converted(each.hint, given) == converted(each.hint, each.default), each.name


def test_a_variant_generates_as_the_command_does() -> None:
    arguments = {
        name: parameter.default
        for function in (Variant.__init__, Variant.generate)
        for name, parameter in inspect.signature(function).parameters.items()
    }
    params = {str(param.name): param for param in main.commands["generate"].params}
    # the folder is the variant's, and a program reads files itself
    assert set(arguments) - {"self", "path"} == set(params) - {"folder", "prompt_file", "as_json", "quiet"}
    context = main.commands["generate"].make_context("generate", [], resilient_parsing=True)
    assert {name: context.params[name] for name in arguments if name in params and name != "prompt"} == {
        name: default for name, default in arguments.items() if name in params and name != "prompt"
    }


def test_the_api_raises_what_python_does(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'ratios'"):
        export("m", {"a": ["x"]}, ratios=0.2, out=tmp_path / "out")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="'tasks'"):
        export("m", ratio=0.2)  # type: ignore[call-arg]
