"""What this package replaces or reads inside other packages is there in the installed release, and looks as expected.

A failure names the package, its release and the attribute: the file that is named beside it has to follow.
"""

from __future__ import annotations

import importlib
import inspect
from importlib.metadata import version
from operator import attrgetter
from typing import Any

import click
import pytest

from seap_export.common.llama_library import ModelParameters, _check
from seap_export.errors import EnvironmentFailure

#: Where it is used; package; module; attribute; the parameters that it takes, None if it is no function.
INTERNALS: tuple[tuple[str, str, str, str, tuple[str, ...] | None], ...] = (
    ("layers/stock.py", "torch", "torch.nn", "Module.register_parameter", ("self", "name", "param")),
    ("layers/stock.py", "torch", "torch.nn", "Module.load_state_dict", ("self", "state_dict", "strict", "assign")),
    ("layers/stock.py", "transformers", "transformers.cache_utils", "DynamicLayer.update", ("self", "key_states")),
    ("layers/stock.py", "transformers", "transformers", "PretrainedConfig._attn_implementation", None),
    (
        "modeling/registration.py",
        "transformers",
        "transformers.models.auto.configuration_auto",
        "CONFIG_MAPPING.register",
        ("key", "value", "exist_ok"),
    ),
    (
        "modeling/registration.py",
        "transformers",
        "transformers",
        "AutoModelForCausalLM.register",
        ("config_class", "model_class", "exist_ok"),
    ),
    ("cli/groups.py", "click", "click", "Option.add_to_parser", ("self", "parser", "ctx")),
    ("cli/groups.py", "click", "click", "Option.get_help_extra", ("self", "ctx")),
    ("cli/groups.py", "click", "click", "Option.get_help_record", ("self", "ctx")),
    ("cli/groups.py", "click", "click", "Command.format_options", ("self", "ctx", "formatter")),
)


def _broken(file: str, package: str, what: str) -> str:
    return f"{package} {version(package)} {what}, on which seap_export/{file} relies"


@pytest.mark.parametrize(
    ("file", "package", "module", "attribute", "parameters"), INTERNALS, ids=lambda v: str(v)[:40]
)
def test_an_attribute_that_is_replaced_or_called_is_as_expected(
    file: str, package: str, module: str, attribute: str, parameters: tuple[str, ...] | None
) -> None:
    try:
        member: Any = attrgetter(attribute)(importlib.import_module(module))
    except AttributeError:
        pytest.fail(_broken(file, package, f"has no {module}.{attribute}"))
    if parameters is not None:
        names = tuple(inspect.signature(member).parameters)
        changed = f"has {module}.{attribute}({', '.join(names)}) and not ({', '.join(parameters)}, ...)"
        assert names[: len(parameters)] == parameters, _broken(file, package, changed)


def test_a_cache_of_transformers_is_a_list_of_layers() -> None:
    from transformers import DynamicCache

    layers = getattr(DynamicCache(), "layers", None)
    assert layers == [], _broken("layers/stock.py", "transformers", f"has DynamicCache().layers = {layers!r}")


def test_click_keeps_the_options_of_a_function_in_their_order() -> None:
    function = click.option("--second")(click.option("--first")(lambda: None))
    params = getattr(function, "__click_params__", None)
    names = params and [param.name for param in params]
    assert names == ["first", "second"], _broken("cli/groups.py", "click", f"has __click_params__ = {params}")


def test_click_gives_the_range_of_an_option_as_range() -> None:
    option = click.Option(["--number"], type=click.IntRange(1), show_default=True)
    extra = option.get_help_extra(click.Context(click.Command("command")))
    assert "range" in extra, _broken("cli/groups.py", "click", f"gives {extra} in Option.get_help_extra")


def test_a_library_of_llama_cpp_with_other_structures_is_refused() -> None:
    _check(ModelParameters(main_gpu=7), {"main_gpu": 7}, "1.0")
    with pytest.raises(EnvironmentFailure, match="'main_gpu' is 7, not 0"):
        _check(ModelParameters(main_gpu=7), {"main_gpu": 0}, "1.0")
