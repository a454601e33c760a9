"""Options that choose formats, and the form of ONNX files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from seap_export.cli.groups import option
from seap_export.providers import PROVIDERS

if TYPE_CHECKING:
    from converters.format import Format
    from converters.onnx.form import Logits, OnnxForm

__all__ = [
    "all_formats_of",
    "default_form",
    "form_of",
    "format_option",
    "formats_of",
    "formats_option",
    "is_given",
    "logits_option",
    "precision_option",
    "rare_form_options",
]

#: The options of a graph; formats other than ONNX have none of them.
_OF_BLOCKS = ("activations", "block_size", "asymmetric", "float_embeddings")
_OF_GRAPHS = ("precision", *_OF_BLOCKS, "dialect", "logits")
_GIVEN = (ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP)

format_option = option(
    "--format",
    "format_name",
    default="onnx",
    show_default=True,
    metavar="NAME[:PRECISION]",
    help="Format to write; docs/runtimes.md lists them.",
)
formats_option = option(
    "--format",
    "formats",
    multiple=True,
    metavar="NAME[:PRECISION]",
    help="Format to write beside the model folder hf, which is always written; docs/runtimes.md lists them. "
    "Repeatable; with a target, one is chosen for each variant.  [default: onnx]",
)
precision_option = option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "bf16", "int8", "int4"]),
    help="Precision of the ONNX weights.  [default: fp32 on cpu, fp16 on cuda]",
)
rare_form_options = (
    option(
        "--activations",
        type=click.Choice(["fp32", "fp16", "bf16"]),
        help="For int8 and int4: dtype of activations and caches.  [default: fp32 on cpu, fp16 on cuda]",
    ),
    option(
        "--block-size",
        type=click.Choice(["32", "64", "128"]),
        help="For int8 and int4: number of weights that share a scale.  [default: 32]",
    ),
    option("--asymmetric", is_flag=True, help="For int8 and int4: store a zero point for each block."),
    option(
        "--float-embeddings", is_flag=True, help="For int8 and int4: do not quantise the embedding and the LM head."
    ),
    option(
        "--dialect",
        type=click.Choice(["fused", "standard"]),
        default="fused",
        show_default=True,
        help="Use ONNX Runtime's fused operators, or only operators of the ONNX standard.",
    ),
)


def logits_option(default: Logits) -> Callable[..., Any]:
    """--logits with this default."""
    return option(
        "--logits",
        type=click.Choice(["all", "last"]),
        default=default,
        show_default=True,
        help="Logits of all positions, or only of each prompt's last token, which makes prompts faster.",
    )


def formats_of(texts: Sequence[str], options: dict[str, Any]) -> tuple[Format, ...]:
    """The formats of some `NAME[:PRECISION]`; the options of graphs are removed from `options`, except `provider`.

    Raises:
        UsageError: There is no such format or precision, or an option has no effect.
    """
    from converters.onnx.format import OnnxFormat

    formats = tuple(
        _graph(precision, dict(options)) if format is OnnxFormat else format(precision or format.precisions[0])
        for format, precision in _parsed(texts)
    )
    for name in _OF_GRAPHS:
        del options[name]
    return formats


def all_formats_of(texts: Sequence[str], options: dict[str, Any]) -> tuple[Format, ...]:
    """As `formats_of`, where a format without a precision stands for all that it has, on the provider if it is ONNX.

    Raises:
        UsageError: As `formats_of`.
    """
    from converters.onnx.format import OnnxFormat

    formats: list[Format] = []
    for format, precision in _parsed(texts):
        if format is not OnnxFormat:
            formats += map(format, format.precisions if precision is None else [precision])
        elif precision is None and options["precision"] is None:
            formats += _graphs(options)
        else:
            formats.append(_graph(precision, dict(options)))
    for name in _OF_GRAPHS:
        del options[name]
    return tuple(dict.fromkeys(formats))


def _parsed(texts: Sequence[str]) -> list[tuple[type[Format], str | None]]:
    from converters.formats import parse_format
    from converters.onnx.format import OnnxFormat
    from seap_export.errors import UsageError

    parsed = [parse_format(text) for text in texts]
    if all(format is not OnnxFormat for format, _ in parsed) and (idle := _given()):
        raise UsageError(f"no effect without --format onnx: {', '.join(idle)}")
    return parsed


def _graphs(options: dict[str, Any]) -> Iterator[Format]:
    """ONNX in every precision that the provider can run; options of blocks are for int8 and int4."""
    from converters.onnx.precision import PRECISIONS
    from seap_export.errors import UsageError

    for precision in PRECISIONS:
        idle = {} if precision.startswith("int") else dict.fromkeys(_OF_BLOCKS)
        with suppress(UsageError):
            yield _graph(precision, {**options, **idle})


def _graph(precision: str | None, options: dict[str, Any]) -> Format:
    from converters.onnx.format import OnnxFormat
    from seap_export.errors import UsageError

    option = options["precision"]
    if precision is not None and option not in (None, precision):
        raise UsageError(f"--format onnx:{precision} and --precision {option} contradict each other; give one of them")
    return OnnxFormat.of(form_of({**options, "precision": precision or option}))


def _given() -> list[str]:
    """The options of a graph that the user gave."""
    return [f"--{name.replace('_', '-')}" for name in _OF_GRAPHS if is_given(name)]


def is_given(name: str) -> bool:
    """Whether the user gave an option, on the command line or in a file."""
    return click.get_current_context().get_parameter_source(name) in _GIVEN


def form_of(options: dict[str, Any]) -> OnnxForm:
    """The form that the options describe; removes them from `options`, except `provider`.

    Raises:
        UsageError: The provider cannot run it, or an option has no effect.
    """
    from converters.onnx.form import OnnxForm
    from converters.onnx.precision import choose_precision
    from seap_export.errors import UsageError

    provider, dialect = options["provider"], options.pop("dialect")
    name: Any = options.pop("precision") or PROVIDERS[provider].computes[dialect][0]
    activations, block_size, asymmetric, float_embeddings = (
        options.pop(key) for key in ("activations", "block_size", "asymmetric", "float_embeddings")
    )
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
    return OnnxForm(precision, dialect, options.pop("logits"), provider)


def default_form(provider: str, logits: Logits) -> OnnxForm:
    """The form that no option changes."""
    unset = ("precision", "activations", "block_size", "asymmetric", "float_embeddings")
    return form_of({"provider": provider, "dialect": "fused", "logits": logits, **dict.fromkeys(unset)})
