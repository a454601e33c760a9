"""Parses formats as users name them, and applies the options of ONNX graphs to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from converters.form_options import FormOptions
from converters.format import Format
from converters.formats import FORMATS, alike, format_class, parse_format
from seap_export.common.providers import OWN_FORMAT
from seap_export.common.toml_file import either
from seap_export.errors import UsageError


def formats_of(texts: Sequence[str], form: FormOptions) -> tuple[Format, ...]:
    """Parses names of the form `NAME[:PRECISION]` into formats.

    Raises:
        UsageError: There is no such format or precision, or an option has no effect.
    """
    return tuple(format.of_options(precision, form) for format, precision in _parsed(texts, form))


def all_formats_of(texts: Sequence[str], form: FormOptions, *, of_prompts: bool = False) -> tuple[Format, ...]:
    """Parses like `formats_of`, but a name without a precision stands for all precisions that the options allow.

    Args:
        texts: The names of formats, and their precisions.
        form: The options of graphs.
        of_prompts: Whether precisions that only make prompts faster are among them.

    Raises:
        UsageError: As `formats_of`.
    """
    return tuple(dict.fromkeys(_each(_parsed(texts, form), form, of_prompts)))


def _each(parsed: Sequence[tuple[type[Format], str | None]], form: FormOptions, of_prompts: bool) -> Iterator[Format]:
    for format, precision in parsed:
        if precision is None:
            yield from format.each_of_options(form, of_prompts=of_prompts)
        else:
            yield format.of_options(precision, form)


def own_format_if_any(form: FormOptions) -> Format | None:
    """The format of our own runtime that the options of graphs ask for; None if none of them is given.

    Raises:
        UsageError: An option has no effect, or the provider cannot run it.
    """
    return format_class(OWN_FORMAT).of_options(None, form) if form.given else None


def _parsed(texts: Sequence[str], form: FormOptions) -> list[tuple[type[Format], str | None]]:
    parsed = [parse_format(text) for text in texts]
    if form.given and not any(FORMATS[format.name].has_options for format, _ in parsed):
        named = [alike(format.name, form.precision) for format, _ in parsed if form.precision is not None]
        instead = [f"--format {text}" for text in named if text is not None]
        remedy = f"; use {' '.join(instead)}" if instead else "; leave it out"
        takers = either(name for name, row in FORMATS.items() if row.has_options)
        idle = ", ".join(f"--{name.replace('_', '-')}" for name in form.given)
        raise UsageError(f"no effect without --format {takers}: {idle}{remedy}")
    return parsed
