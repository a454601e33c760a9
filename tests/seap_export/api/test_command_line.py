"""Options of the command line and arguments of the API are the same ones, with the same defaults and values."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import click
import pytest
from support.product import CalibrationSettings, ExportRequest, ParitySettings

from seap_export import Variant, convert, evaluate, export, prune, push, validate
from seap_export.api.arguments import checked, defaults_of
from seap_export.api.tasks import Tasks
from seap_export.cli import main
from seap_export.cli.values import PathType
from seap_export.pipeline.evaluation.request import EvaluationRequest

FUNCTIONS = [export, prune, push, convert, validate, evaluate]
#: What is of the command line alone: where settings are read, how results are printed, a check without torch.
OF_THE_COMMAND = {"config", "set", "as_json", "quiet", "against_golden"}
OF_PYTHON = {"progress"}


def params_of(name: str) -> dict[str, click.Parameter]:
    return {str(param.name): param for param in main.commands[name].params if param.name not in OF_THE_COMMAND}


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
    command, defaults = main.commands[function.__name__], defaults_of(function)
    context = command.make_context(function.__name__, [], resilient_parsing=True)
    values = {name: context.params[name] for name in params_of(function.__name__) if name in defaults}
    assert len(values) > 2
    # () and None both stand for an option that is not given
    given = {name: () if value is None and defaults[name] == () else value for name, value in values.items()}
    assert checked(function, given) == checked(function, {name: defaults[name] for name in given})


def accepted(hint: Any) -> tuple[Any, bool]:
    """The kind of a value, or the choices; and whether there may be several."""
    if hint == Tasks:
        return "text", True
    if get_origin(hint) is Annotated:
        names = {"_path": "path", "_name_or_path": "text", "_pairs": "text"}
        kind = hint.__metadata__[0].__name__
        return names[kind], kind == "_pairs"
    if get_origin(hint) is Literal:
        return get_args(hint), False
    if hint in (bool, int, float, str):
        return hint, False
    members = [member for member in get_args(hint) if member is not type(None)]
    several = next((member for member in members if get_origin(member) is Sequence), None)
    if several is not None:
        return accepted(get_args(several)[0])[0], True
    return ("text", False) if members == [int, str] else accepted(members[0])


def of_click(param: click.Parameter) -> Any:
    kinds = {click.types.IntParamType: int, click.types.FloatParamType: float, click.types.BoolParamType: bool}
    if isinstance(param.type, click.Choice):
        numbers = all(str(choice).isdecimal() for choice in param.type.choices)
        return tuple(int(choice) if numbers else choice for choice in param.type.choices)
    if isinstance(param.type, PathType):
        return "path"
    return next((kind for click_type, kind in kinds.items() if isinstance(param.type, click_type)), "text")


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_values_are_of_the_same_types(function: Callable[..., Any]) -> None:
    annotations = {name: hint for name, hint in function.__annotations__.items() if name != "return"}
    shim = type("", (), {"__annotations__": annotations})
    hints = get_type_hints(shim, function.__globals__, include_extras=True)
    for name, param in params_of(function.__name__).items():
        kind, several = accepted(hints[name])
        assert ("text" if kind is str else kind, several) == (of_click(param), param.multiple), name


def test_a_variant_generates_as_the_command_does() -> None:
    arguments = {
        name: parameter.default
        for function in (Variant.__init__, Variant.generate)
        for name, parameter in inspect.signature(function).parameters.items()
    }
    params = {str(param.name): param for param in main.commands["generate"].params}
    # the folder is the variant's, and a system prompt is a message
    assert set(arguments) - {"self", "path"} == set(params) - {"folder", "system", "as_json", "quiet"}
    context = main.commands["generate"].make_context("generate", [], resilient_parsing=True)
    assert {name: context.params[name] for name in arguments if name in params and name != "prompt"} == {
        name: default for name, default in arguments.items() if name in params and name != "prompt"
    }


@pytest.mark.parametrize(
    ("settings", "function", "other"),
    [
        (CalibrationSettings, export, set()),
        (ParitySettings, export, {"limits"}),
        (ParitySettings, validate, {"limits"}),
        (EvaluationRequest, evaluate, set()),
        # the API's None stands for what depends on other arguments
        (ExportRequest, export, {"mixtures", "threshold", "quality", "speed"}),
    ],
)
def test_the_pipeline_has_the_same_defaults(settings: Any, function: Callable[..., Any], other: set[str]) -> None:
    defaults = defaults_of(function)
    stated = {field.name: field.default for field in fields(settings) if field.default is not MISSING}
    shared = (stated.keys() & defaults.keys()) - other
    assert len(shared) > 2
    assert {name: stated[name] for name in shared} == {name: defaults[name] for name in shared}
