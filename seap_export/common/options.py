"""Options, each declared once: a field of a frozen dataclass, from which the command line and the Python API follow.

    @options
    class CalibrateOptions:
        seed: int = option("Seed of the split.", default=0)

The type, the default and the words make the option of a command and its help, the key of a settings file, and the
argument of a function with its line in the docstring. Values are checked and brought to one form when an instance is
made.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from functools import cache, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, dataclass_transform, get_type_hints

from seap_export.common.values import Mismatch, Unknown, converted
from seap_export.errors import UsageError, refuse_less

_P = ParamSpec("_P")
_O = TypeVar("_O")
_R = TypeVar("_R")
_S = TypeVar("_S")
_T = TypeVar("_T")
_ABOUT = "option"
_WIDTH = 116


@dataclass(frozen=True)
class About:
    """The description of an option, apart from its type and default.

    Attributes:
        help: Its help on the command line.
        unset: What holds if it is not given, where its default does not say so.
        python: Its line in a docstring, if it differs from the help.
        title: Where the help of `export` lists it; a setting has none, and is neither on the command line nor there.
        rare: Whether only --help-all shows it.
        metavar: What stands for its value in the help.
        least: Its least value, if there is one.
        is_argument: Whether the command line takes it without a name.
        off: What turns a flag off on the command line, if not --no- before its name.
        name: What the command line calls it, if it is not the name of the field.
        of_a_run: Whether it is about one run, and so is no key of a settings file.
        of_python: Whether it is an argument of the function alone.
    """

    help: str
    unset: str = ""
    python: str = ""
    title: str = ""
    rare: bool = False
    metavar: str = ""
    least: int | None = None
    is_argument: bool = False
    off: str = ""
    name: str = ""
    of_a_run: bool = False
    of_python: bool = False


@dataclass(frozen=True)
class Declared:
    """An option as a class declares it.

    Attributes:
        name: The field, which is also the argument of the function.
        annotation: The same, as its class has it.
        default: Its default; `dataclasses.MISSING`: it is required.
        is_positional: Whether it may be given without its name.
    """

    name: str
    hint: Any
    annotation: str
    default: Any
    about: About
    is_positional: bool

    @property
    def is_setting(self) -> bool:
        """Whether it is neither on the command line nor an argument, but in a settings file."""
        return not (self.about.title or self.about.of_python)

    @property
    def is_required(self) -> bool:
        """Whether it has no default."""
        return self.default is MISSING


def option(help: str, *, default: Any = MISSING, kw_only: bool = True, **about: Any) -> Any:
    """A field that is an option.

    Args:
        help: Its help on the command line.
        default: Its default; without one, it is required.
        kw_only: Whether it must be given by name.
        **about: The rest of `About`.
    """
    return field(default=default, kw_only=kw_only, metadata={_ABOUT: About(help, **about)})


@dataclass_transform(kw_only_default=True, field_specifiers=(option, field))
def options(cls: type[_T]) -> type[_T]:
    """Makes a class a frozen dataclass that checks its options when it is made, unless it has a `__post_init__`.

    Then its `refuse_contradictions` is called, if it has one. Making one raises `Mismatch` for a value of another
    type, and `UsageError` for one that there is not.
    """
    if "__post_init__" not in vars(cls):
        cls.__post_init__ = _settle  # type: ignore[attr-defined]
    return dataclass(frozen=True, kw_only=True)(cls)


@cache
def declared(cls: type) -> tuple[Declared, ...]:
    """The options of a class: those that may be given without a name, then those of its bases, then its own."""
    hints = get_type_hints(cls, include_extras=True)
    found = [
        Declared(each.name, hints[each.name], str(each.type), each.default, each.metadata[_ABOUT], not each.kw_only)
        for each in fields(cls)
        if _ABOUT in each.metadata
    ]
    return tuple(sorted(found, key=lambda each: not each.is_positional))


def _settle(self: Any) -> None:
    """Brings every option of an instance to the form of its type."""
    cls: type = type(self)
    for each in declared(cls):
        value = getattr(self, each.name)
        try:
            settled = converted(each.hint, value)
        except Mismatch as error:
            raise Mismatch(f"{each.name} must be {error}, not {value!r:.60}") from None
        except Unknown as error:
            raise UsageError(f"{each.name} {value!r:.40} is unknown; use one of {error}") from None
        if each.about.least is not None:
            refuse_less(each.about.least, **{each.name: settled})
        object.__setattr__(self, each.name, settled)
    if hasattr(cls, "refuse_contradictions"):
        self.refuse_contradictions()


def values_of(cls: type, whole: object) -> dict[str, Any]:
    """The values of the options of a class by name, out of an instance that has them."""
    return {each.name: getattr(whole, each.name) for each in declared(cls)}


def part(cls: type[_T], whole: object) -> _T:
    """The options of a class out of an instance that has more."""
    return cls(**values_of(cls, whole))


def takes(cls: Callable[_P, _O]) -> Callable[[Callable[[_O], _R]], Callable[_P, _R]]:
    """Makes a function of such options one that takes them as arguments.

    Its docstring has the line "The fields of `CLASS`." below "Args:", in place of which the arguments are described.
    """

    def decorate(function: Callable[[_O], _R]) -> Callable[_P, _R]:
        @wraps(function)
        def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            return function(_given(cls, function, args, kwargs))

        return _described_by(cls, function, call)

    return decorate


def method_takes(cls: Callable[_P, _O]) -> Callable[[Callable[[_S, _O], _R]], Callable[Concatenate[_S, _P], _R]]:
    """Makes a method of such options one that takes them as arguments, as `takes` does with a function."""

    def decorate(method: Callable[[_S, _O], _R]) -> Callable[Concatenate[_S, _P], _R]:
        @wraps(method)
        def call(self: _S, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
            return method(self, _given(cls, method, args, kwargs))

        return _described_by(cls, method, call, inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY))

    return decorate


def _given(cls: Callable[..., _O], function: Callable[..., Any], args: Any, kwargs: Any) -> _O:
    """The options that a function is called with."""
    try:
        inspect.Signature(map(_parameter, declared(cls))).bind(*args, **kwargs)  # type: ignore[arg-type]
    except TypeError as error:
        raise TypeError(f"{function.__name__}() {error}") from None
    try:
        return cls(*args, **kwargs)
    except Mismatch as error:
        raise TypeError(f"{function.__name__}(): {error}") from None


def _described_by(cls: Any, function: Callable[..., Any], call: Any, *first: inspect.Parameter) -> Any:
    """Gives what calls a function its signature and its docstring."""
    parameters = [*first, *map(_parameter, declared(cls))]
    call.__signature__ = inspect.Signature(parameters, return_annotation=function.__annotations__["return"])
    line, lines = f"    The fields of `{cls.__name__}`.", "\n".join(map(_described, declared(cls)))
    call.__doc__ = inspect.cleandoc(function.__doc__ or "").replace(line, lines)
    return call


def _parameter(each: Declared) -> inspect.Parameter:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD if each.is_positional else inspect.Parameter.KEYWORD_ONLY
    default = inspect.Parameter.empty if each.is_required else each.default
    return inspect.Parameter(each.name, kind, default=default, annotation=each.annotation)


def _described(each: Declared) -> str:
    """The line of an argument in a docstring."""
    unset = f" None: {each.about.unset}." if each.about.unset and each.default is None else ""
    text = f"{each.name}: {each.about.python or each.about.help + unset}"
    return textwrap.fill(text, _WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 8, break_on_hyphens=False)


def defaults_of(cls: type) -> dict[str, Any]:
    return {each.name: each.default for each in declared(cls) if not each.is_required}
