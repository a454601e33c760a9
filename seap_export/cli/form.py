"""Options that choose the form of ONNX files."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from converters.form import Logits, OnnxForm

__all__ = ["form_of", "form_options"]

_PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int4")
_BLOCK_SIZES = ("32", "64", "128")


def form_options(logits: Logits) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds --provider, --precision and what belongs to it, --dialect and --logits, with this default."""
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
        click.option(
            "--dialect",
            type=click.Choice(["fused", "standard"]),
            default="fused",
            show_default=True,
            help="ONNX Runtime's fused operators, or those of the ONNX standard alone.",
        ),
        click.option(
            "--logits",
            type=click.Choice(["all", "last"]),
            default=logits,
            show_default=True,
            help="Of all positions, or of each prompt's last token: faster to generate with.",
        ),
    )

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def form_of(options: dict[str, Any]) -> OnnxForm:
    """The form that the options name; takes them out of `options`, except `provider`.

    Raises:
        UsageError: The provider cannot run it, or an option would change nothing.
    """
    from converters.form import OnnxForm
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
    precision = choose_precision(
        name, provider, block_size=int(block_size or 32), symmetric=not asymmetric, embeddings=not float_embeddings
    )
    return OnnxForm(precision, options.pop("dialect"), options.pop("logits"))
