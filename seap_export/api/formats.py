"""Formats as users name them, and the form of ONNX files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from converters.format import Format
from converters.formats import alike, parse_format
from converters.onnx.form import OnnxForm
from converters.onnx.format import OnnxFormat
from converters.onnx.precision import PRECISIONS, choose_precision
from seap_export.common.providers import PROVIDERS, DialectName
from seap_export.errors import UsageError

#: The options of a graph; formats other than ONNX have none of them. Unset ones are None or False.
_OF_BLOCKS = ("activations", "block_size", "asymmetric", "float_embeddings")
_OF_GRAPHS = ("precision", *_OF_BLOCKS, "dialect", "logits")


def formats_of(texts: Sequence[str], options: dict[str, Any]) -> tuple[Format, ...]:
    """The formats of some `NAME[:PRECISION]`; the options of graphs are removed from `options`, except `provider`.

    Raises:
        UsageError: There is no such format or precision, or an option has no effect.
    """
    graph = _popped(options)
    return tuple(
        _graph(precision, graph) if format is OnnxFormat else format(precision or format.precisions[0])
        for format, precision in _parsed(texts, graph)
    )


def all_formats_of(texts: Sequence[str], options: dict[str, Any]) -> tuple[Format, ...]:
    """As `formats_of`, where a format without a precision stands for all that it has, on the provider if it is ONNX.

    Raises:
        UsageError: As `formats_of`.
    """
    graph, formats = _popped(options), list[Format]()
    for format, precision in _parsed(texts, graph):
        if format is not OnnxFormat:
            formats += map(format, format.precisions if precision is None else [precision])
        elif precision is None and graph["precision"] is None:
            formats += _graphs(graph)
        else:
            formats.append(_graph(precision, graph))
    return tuple(dict.fromkeys(formats))


def _popped(options: dict[str, Any]) -> dict[str, Any]:
    """The options of a graph and `provider`; removes them from `options`, except `provider`."""
    return {"provider": options["provider"], **{name: options.pop(name) for name in _OF_GRAPHS}}


def _parsed(texts: Sequence[str], graph: dict[str, Any]) -> list[tuple[type[Format], str | None]]:
    parsed = [parse_format(text) for text in texts]
    idle = [f"--{name.replace('_', '-')}" for name in _OF_GRAPHS if graph[name] not in (None, False)]
    if idle and all(format is not OnnxFormat for format, _ in parsed):
        named = [alike(format.name, graph["precision"]) for format, _ in parsed if graph["precision"] is not None]
        instead = [f"--format {text}" for text in named if text is not None]
        remedy = f"; use {' '.join(instead)}" if instead else "; leave it out"
        raise UsageError(f"no effect without --format onnx: {', '.join(idle)}{remedy}")
    return parsed


def _graphs(graph: dict[str, Any]) -> Iterator[Format]:
    """ONNX in every precision that the provider can run; options of blocks are for int8 and int4."""
    for precision in PRECISIONS:
        idle = {} if precision.startswith("int") else dict.fromkeys(_OF_BLOCKS)
        with suppress(UsageError):
            yield _graph(precision, {**graph, **idle})


def _graph(precision: str | None, graph: dict[str, Any]) -> Format:
    option = graph["precision"]
    if precision is not None and option not in (None, precision):
        raise UsageError(f"--format onnx:{precision} and --precision {option} contradict each other; give one of them")
    return OnnxFormat.of(_form_of({**graph, "precision": precision or option}))


def form_if_any(options: dict[str, Any]) -> OnnxForm | None:
    """As `_form_of`; None: the options say nothing about a graph.

    Raises:
        UsageError: As `_form_of`.
    """
    graph = _popped(options)
    return _form_of(graph) if any(graph[name] for name in _OF_GRAPHS) else None


def _form_of(options: dict[str, Any]) -> OnnxForm:
    """The form that the options describe; removes them from `options`, except `provider`.

    Raises:
        UsageError: The provider cannot run it, or an option has no effect.
    """
    provider: str = options["provider"]
    dialect: DialectName = options.pop("dialect") or "fused"
    name: Any = options.pop("precision") or PROVIDERS[provider].precision[dialect]
    activations, block_size, asymmetric, float_embeddings = (options.pop(key) for key in _OF_BLOCKS)
    settings = {
        "activations": activations,
        "block size": block_size,
        "asymmetric": asymmetric,
        "float embeddings": float_embeddings,
    }
    if not name.startswith("int") and any(settings.values()):
        idle = ", ".join(setting for setting, value in settings.items() if value)
        raise UsageError(f"no effect on {name} weights, which are not quantised: {idle}; use --precision int8 or int4")
    precision = choose_precision(
        name,
        provider,
        dialect,
        activations=activations,
        block_size=int(block_size or 32),
        symmetric=not asymmetric,
        embeddings=not float_embeddings,
    )
    return OnnxForm(precision, dialect, options.pop("logits") or "last", provider)
