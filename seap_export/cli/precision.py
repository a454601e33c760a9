"""Options that choose the precision of ONNX files."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from converters.precision import Precision

__all__ = ["precision_of", "precision_options"]

_PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int4")
_BLOCK_SIZES = ("32", "64", "128")


def precision_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --provider, --precision and what belongs to int8 and int4."""
    options = (
        click.option(
            "--provider",
            type=click.Choice(["cpu", "cuda"]),
            default="cpu",
            show_default=True,
            help="Execution provider of the ONNX files.",
        ),
        click.option(
            "--precision",
            type=click.Choice(_PRECISIONS),
            help="int8 and int4 are of the weights only.  [default: fp32 on cpu, fp16 on cuda]",
        ),
        click.option(
            "--block-size",
            type=click.Choice(_BLOCK_SIZES),
            help="int8 and int4: weights that share a scale.  [default: 32]",
        ),
        click.option("--asymmetric", is_flag=True, help="int8 and int4: a zero point for each block."),
        click.option(
            "--float-embeddings", is_flag=True, help="int8 and int4: leave the embedding and LM head as they are."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def precision_of(options: dict[str, Any]) -> Precision:
    """The precision that the options name; takes them out of `options`, except `provider`.

    Raises:
        UsageError: The provider cannot run it, or an option would change nothing.
    """
    from converters.precision import choose_precision
    from seap_export.errors import UsageError

    provider = options["provider"]
    name: Any = options.pop("precision") or ("fp32" if provider == "cpu" else "fp16")
    block_size, asymmetric, float_embeddings = (
        options.pop(key) for key in ("block_size", "asymmetric", "float_embeddings")
    )
    given = {"--block-size": block_size, "--asymmetric": asymmetric, "--float-embeddings": float_embeddings}
    if not name.startswith("int") and any(given.values()):
        idle = ", ".join(option for option, value in given.items() if value)
        raise UsageError(f"{idle}: {name} weights are not quantised; add --precision int8 or int4")
    return choose_precision(
        name, provider, block_size=int(block_size or 32), symmetric=not asymmetric, embeddings=not float_embeddings
    )
