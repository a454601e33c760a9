"""Recipes: settings as TOML files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from types import MappingProxyType

from seap_export.common.providers import PROVIDERS
from seap_export.common.toml_file import TomlFile, either, parse_toml, read_toml
from seap_export.errors import UsageError
from seap_export.pruning.plan.keys import SettingError, keys_of
from seap_export.pruning.plan.settings import Layout, PlanSettings
from seap_export.pruning.plan.sparsity import EVEN, Sparsity

DEFAULT_RECIPE = "reconstruct"
#: The name of settings that match no shipped recipe.
CUSTOM = "custom"
#: What a recipe says of itself.
_ABOUT = ("summary", "source")
#: The shipped recipes, one file each in `seap_export/pruning/recipes`.
_SHIPPED = (DEFAULT_RECIPE, "fast", "best", "seap", "wanda-sp", "flap", "obc", "reap")


@dataclass(frozen=True)
class Target:
    """The target of a variant, which settles the choices that a recipe leaves open.

    Attributes:
        block_size: Neurons that share a scale where the kernels of the provider take whole blocks only; else 1.
        groups_heads: Whether the graph has an attention operator for which the number of heads in a group matters.
    """

    provider: str = "cpu"
    block_size: int = 1
    groups_heads: bool = True

    @property
    def align(self) -> int:
        """Neuron counts are multiples of this."""
        return math.lcm(PROVIDERS[self.provider].align, self.block_size)

    @property
    def group_tolerance(self) -> float:
        """By how much the loss may rise for the sake of the numbers of heads in a group."""
        return PROVIDERS[self.provider].group_tolerance if self.groups_heads else 0.0


_CPU = Target()


@dataclass(frozen=True)
class Recipe:
    """A recipe file."""

    summary: str
    source: str
    settings: PlanSettings
    text: str


@cache
def shipped_recipes() -> Mapping[str, Recipe]:
    """The recipes that come with this package, by name; the default first."""
    return MappingProxyType({name: _recipe(_shipped_file(name), _CPU) for name in _SHIPPED})


def open_recipe(recipe: str = DEFAULT_RECIPE, *, layout: Layout = "per-layer", target: Target = _CPU) -> PlanSettings:
    """The settings of a shipped recipe or of a recipe file.

    Args:
        recipe: Name of a shipped recipe, or path of a TOML file.
        layout: Whether layers may differ in shape.
        target: What the variant is made for, which decides `align` and `group_tolerance` where the recipe does not.

    Raises:
        UsageError: There is no such recipe, or the file holds an invalid value; the message names file, line and key.
    """
    if recipe in _SHIPPED:
        file = _shipped_file(recipe)
    else:
        path = Path(recipe).expanduser()
        if not path.is_file():
            raise UsageError(f"recipe '{recipe}' is not known; use {either(_SHIPPED)}, or the path of a TOML file")
        file = read_toml(path)
    settings = _recipe(file, target).settings
    if recipe in _SHIPPED and layout == "uniform":
        settings = replace(settings, trials=0)  # which a file of one's own may not ask for there
    try:
        return in_layout(settings, layout)
    except SettingError as error:
        raise file.error(error.key, error.problem) from error


def in_layout(settings: PlanSettings, layout: Layout) -> PlanSettings:
    """The same settings in a layout; the uniform one replaces the sparsity, since all layers lose the same."""
    if layout == "per-layer":
        return replace(settings, layout=layout)
    if settings.sparsity not in (EVEN, *(recipe.settings.sparsity for recipe in shipped_recipes().values())):
        problem = "--layout uniform prunes all layers alike; remove this table, or use another layout"
        raise SettingError("sparsity", problem)
    if settings.trials:
        raise SettingError("trials", "has no effect with --layout uniform; remove this key")
    return replace(settings, layout=layout, sparsity=EVEN)


def method_of(settings: PlanSettings, num_hidden_layers: int) -> str:
    """The name of the shipped recipe with these settings, or `custom`.

    It is the same whatever the free keys are. In the uniform layout it is the recipe whose other settings are
    these, since sparsity is not free there.
    """
    resolved = settings.resolved(num_hidden_layers)
    free = {name: getattr(resolved, name) for name, key in keys_of(PlanSettings).items() if key.is_free}
    for name, recipe in shipped_recipes().items():
        shipped = in_layout(replace(recipe.settings, trials=0), settings.layout).resolved(num_hidden_layers)
        if replace(shipped, **free) == resolved:
            return name
    return CUSTOM


def _shipped_file(name: str) -> TomlFile:
    file = resources.files("seap_export.pruning") / "recipes" / f"{name}.toml"
    return parse_toml(file.name, file.read_text("utf-8"))


def _recipe(file: TomlFile, target: Target) -> Recipe:
    """The recipe in a file that may leave out any key."""
    file.refuse_unknown((*_ABOUT, "sparsity", *keys_of(PlanSettings)))
    values = dict(file.values)
    about = {name: values.pop(name, "") for name in _ABOUT}
    sparsity = values.pop("sparsity", {})
    for name, value, kind in (*((name, text, str) for name, text in about.items()), ("sparsity", sparsity, dict)):
        if not isinstance(value, kind):
            raise file.error(name, f"must be a {'string' if kind is str else 'table'}, not {value!r:.40}")
    file.refuse_unknown(keys_of(Sparsity), "sparsity")
    try:
        settings = PlanSettings(
            sparsity=Sparsity(**{"kind": "adaptive", **sparsity}),
            **{"align": target.align, "group_tolerance": target.group_tolerance, **values},
        )
        _refuse_idle(settings, values)
        _refuse_idle(settings.sparsity, sparsity, "sparsity.")
    except SettingError as error:
        raise file.error(error.key, error.problem) from error
    return Recipe(**about, settings=settings, text=file.text)


def _refuse_idle(settings: PlanSettings | Sparsity, given: Iterable[str], prefix: str = "") -> None:
    keys = keys_of(type(settings))
    for name in given:
        if cause := keys[name].idle(settings):
            raise SettingError(prefix + name, f"has no effect with {cause}; remove it")
