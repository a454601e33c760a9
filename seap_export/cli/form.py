"""Options that choose formats, and the form of ONNX files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from converters.formats import WRITTEN
from seap_export.api.arguments import defaults_of
from seap_export.api.convert import convert
from seap_export.api.export import export
from seap_export.cli.groups import option
from seap_export.common.toml_file import either


class _IntChoice(click.Choice):
    """One of some numbers."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Converts text to a number."""
        return int(super().convert(str(value), param, ctx))


format_option = option(
    "--format",
    defaults=defaults_of(convert),
    once=True,
    metavar="NAME[:PRECISION]",
    help=f"Format to write: {either(WRITTEN)} (docs/runtimes.md).",
)
formats_option = option(
    "--format",
    multiple=True,
    default=[defaults_of(export)["format"]],
    show_default=True,
    metavar="NAME[:PRECISION]",
    help=f"Format to write beside the model folder hf/: {either(WRITTEN)} (docs/runtimes.md). Repeatable; with a "
    "target, one is chosen for each variant.",
)
rare_form_options = (
    option(
        "--activations",
        type=click.Choice(["fp32", "fp16", "bf16"]),
        help="For int8 and int4: dtype of activations and caches.  [default: fp32 on cpu, fp16 on cuda]",
    ),
    option(
        "--block-size",
        type=_IntChoice(["32", "64", "128"]),
        help="For int8 and int4: number of weights that share a scale.  [default: 32]",
    ),
    option("--asymmetric", is_flag=True, help="For int8 and int4: store a zero point for each block."),
    option(
        "--float-embeddings", is_flag=True, help="For int8 and int4: do not quantise the embedding and the LM head."
    ),
    option(
        "--dialect",
        type=click.Choice(["fused", "standard"]),
        help="Use ONNX Runtime's fused operators, or only operators of the ONNX standard.  [default: fused]",
    ),
)


def precision_option(default: str = "int8 on cpu, fp16 on cuda") -> Callable[..., Any]:
    """--precision, whose default is called this."""
    return option(
        "--precision",
        type=click.Choice(["fp32", "fp16", "bf16", "int8", "int4"]),
        help=f"Precision of the ONNX weights.  [default: {default}]",
    )


logits_option = option(
    "--logits",
    type=click.Choice(["all", "last"]),
    help="Give the logits of all positions, or only those after a prompt, which is faster.  [default: last]",
)
