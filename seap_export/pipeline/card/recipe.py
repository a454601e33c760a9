"""The settings file of an export that makes one variant again."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from converters.format import Format
from seap_export.common.options import defaults_of, values_of
from seap_export.corpus import Task
from seap_export.corpus.hub import HarnessCorpus, HubCorpus
from seap_export.corpus.parse import SAMPLE
from seap_export.model.sources.source import Source
from seap_export.pipeline.request.export_request import ExportRequest, VariantRequest
from seap_export.pipeline.request.mixtures import GENERAL
from seap_export.pipeline.request.options import CalibrationSettings, ParityOptions, VariantOptions
from seap_export.pruning.plan.recipes import open_recipe, shipped_recipes
from seap_export.pruning.plan.settings import PlanSettings
from seap_export.pruning.plan.sparsity import Sparsity

#: The options that a settings file gives as they were, if they are not the usual ones.
_KEPT = (CalibrationSettings, ParityOptions, VariantOptions)
#: The file, for `export --config`, and the one with a pruning recipe that does not come with the package.
RECIPE, _PRUNING = "recipe.toml", "pruning.toml"


def recipe_files(
    model: str, request: ExportRequest, variant: VariantRequest, formats: Iterable[Format]
) -> dict[str, bytes]:
    """The settings file, and a recipe beside it if the variant's does not come with the package.

    Paths are names of files beside the settings file, so that the same inputs give the same bytes wherever they lie.

    Args:
        model: The dense model as `export` takes it; see `model_name`.
    """
    values = {
        "model": model,
        "ratio": variant.ratio,
        **_changed(request),
        **_pruning(request.plan),
        **_formats(tuple(formats)),
        **({} if variant.vocabulary == "all" else {"vocabulary": variant.vocabulary}),
        **mixture_options(request, variant.mixture.name, lambda task: given_as(task, request)),
        "task": {task.name: given_as(task, request) for task in _tasks(request, variant)},
    }
    files = {RECIPE: _toml(values)}
    if values.get("recipe") == _PRUNING:
        files[_PRUNING] = _toml(_settings(request.plan))
    return {name: text.encode() for name, text in files.items()}


def model_name(source: Source, recorded: str) -> str:
    """The dense model as `export` takes it: a hub id, or the name of its folder or file.

    Args:
        recorded: The model's name when the export began; a folder that was renamed since is the same model.
    """
    return source.hub_id or (f"{recorded}.gguf" if source.files[0].suffix == ".gguf" else recorded)


def needed_files(request: ExportRequest, variant: VariantRequest) -> list[str]:
    """The texts that must lie beside the settings file, by name."""
    tasks = [*_tasks(request, variant), *([] if request.support is None else [request.support.task])]
    names = [given_as(task, request) for task in tasks if _is_file(task)]
    names += [] if request.general_text is None else [request.general_text.name]
    return list(dict.fromkeys(names))


def _tasks(request: ExportRequest, variant: VariantRequest) -> list[Task]:
    """In the order of their names, whatever the order in which they were given."""
    return sorted((task for task in request.tasks if task.name in variant.mixture.weights), key=lambda task: task.name)


def given_as(task: Task, request: ExportRequest) -> str:
    """The source of a task, without the folder of a file; texts in memory are a file named after the task."""
    if not _is_file(task):
        return task.given_as
    name = Path(task.given_as or f"{task.name}.jsonl").name
    alike = [other for other in request.tasks if Path(other.given_as).name == name]
    return name if len(alike) < 2 else f"{task.name}-{name}"


def _is_file(task: Task) -> bool:
    if task.given_as.startswith(SAMPLE):
        return False
    return Path(task.given_as).suffix.lower() == ".toml" or not isinstance(task.corpus, HubCorpus | HarnessCorpus)


def _changed(request: ExportRequest) -> dict[str, Any]:
    """The options of texts, parity and variants that differ from their defaults; a path is a file beside this one."""
    names = [name for options in _KEPT for name in defaults_of(options)]
    defaults, values = defaults_of(ExportRequest), values_of(ExportRequest, request)
    changed = {name: values[name] for name in (*names, "provider") if values[name] != defaults[name]}
    return {name: value.name if isinstance(value, Path) else value for name, value in changed.items()}


def _pruning(settings: PlanSettings) -> dict[str, Any]:
    """The recipe and the layout, if they are not the default."""
    layout = {} if settings.layout == "per-layer" else {"layout": settings.layout}
    for index, name in enumerate(shipped_recipes()):
        if open_recipe(name, layout=settings.layout) == settings:
            return ({"recipe": name} if index else {}) | layout
    return {"recipe": _PRUNING} | layout


def _settings(settings: PlanSettings) -> dict[str, Any]:
    """A recipe with these settings; those of a uniform layout are not a recipe's."""
    values = _differing(settings, PlanSettings(), without=("layout", "sparsity"))
    if settings.layout == "uniform":
        return values
    sparsity = _differing(settings.sparsity, Sparsity(settings.sparsity.kind), without=("kind",))
    return values | {"sparsity": {"kind": settings.sparsity.kind, **sparsity}}


def _differing(settings: PlanSettings | Sparsity, default: object, without: Collection[str]) -> dict[str, Any]:
    values = {name: value for name, value in vars(settings).items() if name not in without}
    return {name: value for name, value in values.items() if value != getattr(default, name)}


def _formats(formats: tuple[Format, ...]) -> dict[str, Any]:
    if not formats:
        return {"format": "hf"}
    options: dict[str, Any] = {}
    for format in formats:
        options |= format.options()
    return {"format": [f"{format.name}:{format.precision}" for format in formats], **options}


def mixture_options(request: ExportRequest, name: str, given: Callable[[Task], str]) -> dict[str, Any]:
    """The options that make a mixture again, and the text that supports all of them.

    Args:
        given: How a task is given, without its name.
    """
    values: dict[str, Any] = {}
    if request.support is not None:
        values["support"] = f"{given(request.support.task)}:{request.support.share!r}"
    weights = next((dict(mixture.weights) for mixture in request.mixtures if mixture.name == name), None)
    if weights is None:
        return values
    if name != GENERAL:
        return values | {"mix": {name: weights}}
    weights = {task: weight for task, weight in weights.items() if weight != 1.0}
    return values | {"general": True, **({"weight": weights} if weights else {})}


def _toml(values: Mapping[str, Any]) -> str:
    """A TOML file, with tables after all other values."""
    lines = [f"{_key(name)} = {_value(value)}" for name, value in values.items() if not isinstance(value, Mapping)]
    for name, table in values.items():
        if isinstance(table, Mapping):
            lines += ["", f"[{_key(name)}]", *(f"{_key(key)} = {_value(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def _key(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").isalnum() and name.isascii() else _json(name)


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(key)} = {_value(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return _json(value)


def _json(value: object) -> str:
    """Texts, numbers and truth values are written alike, but for DEL, which TOML wants escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
